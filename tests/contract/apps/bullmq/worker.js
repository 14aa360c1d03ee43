// Copyright (c) 2026, the queueops.fleet contributors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// One real worker: node worker.js '{"library", "connection", "prefix", "queue", "name", "ledger", "gate", "broken"}'
'use strict';

const fs = require('node:fs');

const given = JSON.parse(process.argv[2]);
const { Worker } = require(given.library);

class ValueError extends Error {
  constructor(message) {
    super(message);
    this.name = 'ValueError';
  }
}

async function work(job) {
  if (job.name === 'fail' || (job.name === 'flaky' && fs.existsSync(given.broken))) {
    throw new ValueError('no good');
  }
  while (job.name === 'hold' && !fs.existsSync(given.gate)) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  fs.appendFileSync(given.ledger, `${job.id}\n`);
}

const worker = new Worker(given.queue, work, {
  connection: given.connection,
  prefix: given.prefix,
  name: given.name || undefined,
  concurrency: 1,
});
worker.on('error', (problem) => console.error(String(problem)));
process.on('SIGTERM', async () => {
  await worker.close();
  process.exit(0);
});
