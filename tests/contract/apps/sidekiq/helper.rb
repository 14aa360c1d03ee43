# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Sidekiq's own API for the tests: one JSON array a line in, one JSON value a line out.

require "json"
require "sidekiq/api"
require "sidekiq/job_retry"
require_relative "contract_tasks"

Sidekiq.configure_client { |config| config.redis = { url: ENV.fetch("REDIS_URL") } }
logger = Sidekiq.respond_to?(:default_configuration) ? Sidekiq.default_configuration.logger : Sidekiq.logger
logger.level = Logger::FATAL

RETRIER =
  if Sidekiq.respond_to?(:default_configuration)
    require "sidekiq/capsule"
    Sidekiq::JobRetry.new(Sidekiq.default_configuration.default_capsule)
  else
    Sidekiq::JobRetry.new
  end

# As the worker does when a task raises.
def failed(task, queue)
  error =
    begin
      raise ValueError, "no good"
    rescue ValueError => e
      e
    end
  worker = Object.const_get(JSON.parse(task)["class"]).new
  RETRIER.send(:local, worker, task, queue) { raise error }
rescue Sidekiq::JobRetry::Handled
  nil
end

COMMANDS = {
  "publish" => lambda { |queue, kind, count|
    Sidekiq::Client.push_bulk("class" => Object.const_get(kind), "queue" => queue, "args" => [["hunter2"]] * count)
  },
  "fail" => lambda { |queue, kind, count, set|
    ids = COMMANDS["publish"].call(queue, kind, count)
    wanted = ids.each_with_index.to_h
    found = []
    Sidekiq::Queue.new(queue).each { |entry| found << entry if wanted.key?(entry.jid) }
    found.sort_by { |entry| wanted[entry.jid] }.each { |entry| entry.delete && failed(entry.value, queue) }
    # Sidekiq adds some seconds at random to when each is due; here the oldest is due first.
    retries = Sidekiq::RetrySet.new
    due = Time.now.to_f + 3600
    retries.to_a.select { |entry| wanted.key?(entry.jid) }.each do |entry|
      Sidekiq.redis { |redis| redis.zadd("retry", (due + wanted[entry.jid] * 0.001).to_s, entry.value) }
    end
    if set == "dead"
      ids.each { |jid| retries.find_job(jid).kill }
    end
    ids
  },
  "retry_all" => lambda { |set|
    (set == "dead" ? Sidekiq::DeadSet : Sidekiq::RetrySet).new.retry_all
    true
  },
  "native" => lambda { |queue|
    work = defined?(Sidekiq::WorkSet) ? Sidekiq::WorkSet : Sidekiq::Workers
    executing = work.new.count { |_process, _thread, held| (held.respond_to?(:queue) ? held.queue : held["queue"]) == queue }
    {
      "queued" => Sidekiq::Queue.new(queue).size,
      "executing" => executing,
      "failed" => Sidekiq::RetrySet.new.count { |entry| entry.queue == queue },
      "dead" => Sidekiq::DeadSet.new.count { |entry| entry.queue == queue },
    }
  },
}.freeze

$stdout.sync = true
$stdin.each_line do |line|
  name, *arguments = JSON.parse(line)
  puts JSON.generate([COMMANDS.fetch(name).call(*arguments)])
end
