// Copyright (c) 2026, the queueops.fleet contributors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
// BullMQ's own API for the tests: node tool.js '{"library", "connection", "prefix"}'; one JSON order a line in, one JSON answer a line out.
'use strict';

const readline = require('node:readline');

const given = JSON.parse(process.argv[2]);
const { FlowProducer, Queue, Worker } = require(given.library);

const shared = { connection: given.connection, prefix: given.prefix };
const queues = new Map();

class ValueError extends Error {
  constructor(message) {
    super(message);
    this.name = 'ValueError';
  }
}

function queue(name) {
  if (!queues.has(name)) {
    queues.set(name, new Queue(name, shared));
    queues.get(name).on('error', (problem) => console.error(String(problem)));
  }
  return queues.get(name);
}

async function takeAll(name, count, act) {
  const worker = new Worker(name, null, { ...shared, name: 'mailer@2.0.0:worker1:1' });
  const ids = [];
  while (ids.length < count) {
    const job = await worker.getNextJob('token', { block: false });
    if (!job) throw new Error(`${name} has no more jobs`);
    await act(job);
    ids.push(job.id);
  }
  await worker.close();
  return ids;
}

const orders = {
  // A new Queue each time: after the server was cleared it has to make itself known again.
  async declare(order) {
    const known = queues.get(order.queue);
    queues.delete(order.queue);
    if (known) await known.close();
    await queue(order.queue).waitUntilReady();
    await queue(order.queue).getVersion();
    return true;
  },
  async publish(order) {
    const jobs = order.jobs.map((job) => ({ name: order.kind, data: job.data, opts: { removeOnComplete: true, ...job.opts } }));
    return (await queue(order.queue).addBulk(jobs)).map((job) => job.id);
  },
  // What waits is taken and fails for good, by BullMQ's own code, without running.
  async fail(order) {
    return takeAll(order.queue, order.count, async (job) => {
      job.attemptsMade = Math.max(job.attemptsMade, (job.opts.attempts || 1) - 1);
      await job.moveToFailed(new ValueError(order.message || 'no good'), 'token', false);
    });
  },
  // Taken and held, with a lock that nobody renews.
  async take(order) {
    return takeAll(order.queue, order.count, async () => undefined);
  },
  async flow(order) {
    const producer = new FlowProducer(shared);
    const tree = await producer.add(order.flow);
    await producer.close();
    return { parent: tree.job.id, children: (tree.children || []).map((child) => child.job.id) };
  },
  async counts(order) {
    return queue(order.queue).getJobCounts('wait', 'paused', 'prioritized', 'active', 'failed', 'delayed', 'completed', 'waiting-children');
  },
  async state(order) {
    return queue(order.queue).getJobState(order.id);
  },
  async job(order) {
    const job = await queue(order.queue).getJob(order.id);
    return job ? job.asJSON() : null;
  },
  async retry(order) {
    await (await queue(order.queue).getJob(order.id)).retry('failed');
    return true;
  },
  async retryJobs(order) {
    const began = process.hrtime.bigint();
    await queue(order.queue).retryJobs({ count: order.count || 1000 });
    return Number(process.hrtime.bigint() - began) / 1e9;
  },
  async pause(order) {
    await queue(order.queue).pause();
    return true;
  },
  async resume(order) {
    await queue(order.queue).resume();
    return true;
  },
  async isPaused(order) {
    return queue(order.queue).isPaused();
  },
  async workers(order) {
    return (await queue(order.queue).getWorkers()).map((worker) => worker.rawname);
  },
  async orphans(order) {
    return queue(order.queue).removeOrphanedJobs();
  },
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    let answer;
    try {
      answer = { value: await orders[order.do](order) };
    } catch (problem) {
      answer = { error: String(problem.stack || problem) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  process.exit(0);
}

main();
