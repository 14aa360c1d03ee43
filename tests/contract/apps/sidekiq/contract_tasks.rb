# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# The tasks of the contract tests. Their only argument is not their id, which Sidekiq gives them.

require "sidekiq"

# The client warns at each task that Sidekiq 6 publishes.
Redis.silence_deprecations = true if defined?(Redis) && Redis.respond_to?(:silence_deprecations=)

class ValueError < StandardError; end

class Base
  def self.inherited(task)
    super
    task.include Sidekiq::Worker
    # Nothing comes back by itself while a test runs.
    task.sidekiq_retry_in { 3600 }
  end

  def note
    File.open(ENV.fetch("QUEUEOPS_LEDGER"), File::WRONLY | File::APPEND | File::CREAT) { |ledger| ledger.syswrite("#{jid}\n") }
  end
end

class Note < Base
  def perform(_text)
    note
  end
end

class Hold < Base
  def perform(_text)
    sleep 0.02 until File.exist?(ENV.fetch("QUEUEOPS_GATE"))
    note
  end
end

class Fail < Base
  def perform(_text)
    raise ValueError, "no good"
  end
end

class Flaky < Base
  def perform(_text)
    raise ValueError, "no good" if File.exist?(ENV.fetch("QUEUEOPS_BROKEN"))
    note
  end
end
