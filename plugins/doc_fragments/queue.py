# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # How a queue module reaches its broker.
    DOCUMENTATION = r"""
options:
  backend:
    description:
      - The queue system.
      - V(bullmq) is BullMQ on Redis.
      - V(celery) is Celery on Redis or on RabbitMQ, by O(url).
      - V(dramatiq) is Dramatiq on Redis or on RabbitMQ, by O(url).
      - V(nats) is a durable consumer of NATS JetStream.
      - V(procrastinate) is Procrastinate on PostgreSQL.
      - V(rabbitmq) is a queue of any application on RabbitMQ, classic or quorum.
      - V(redis_list) is a plain Redis list with a processing list per worker, the pattern that Redis calls a reliable queue.
      - V(redis_stream) is a Redis stream with consumer groups.
      - V(rq) is Python RQ.
      - V(sidekiq) is Sidekiq on Redis.
      - What each of them is able to do, and how, is in the table of the collection's C(docs/queues.md).
    type: str
    required: true
    choices: [bullmq, celery, dramatiq, nats, procrastinate, rabbitmq, redis_list, redis_stream, rq, sidekiq]
  url:
    description:
      - Where the broker is, as the host sees it that runs this task.
      - Redis and Valkey for example V(redis://broker:6379/0), V(rediss://broker:6380/0) with TLS, V(unix:///run/redis/redis.sock?db=0),
        or V(redis+sentinel://sentinel1:26379,sentinel2:26379/mymaster/0).
      - RabbitMQ V(amqp://broker:5672/vhost) or V(amqps://broker:5671/vhost), NATS V(nats://broker:4222) or V(tls://broker:4222),
        PostgreSQL V(postgresql://broker:5432/database).
      - Several servers of a cluster of RabbitMQ or NATS are separated by commas.
      - Give a password in O(password), not here. One that is here all the same is masked in results and errors.
    type: str
    required: true
  username:
    description: User at the broker, where it has users.
    type: str
  password:
    description: Password at the broker.
    type: str
  tls_ca:
    description: File on the host with the CA that signed the broker's certificate. Default is the system's CAs.
    type: path
  tls_verify:
    description:
      - Whether the broker's certificate and name are checked.
      - PostgreSQL's are where O(tls_ca) is given or O(url) asks for TLS (V(sslmode=require) and above). Where neither does, TLS is used if
        the server offers it, unchecked.
    type: bool
    default: true
  connect_timeout:
    description: Seconds to wait for a connection, and for each answer.
    type: float
    default: 5.0
  key_prefix:
    description:
      - The prefix of the queue system's keys in Redis, where the application has changed it.
      - Default is the system's own, for example V(rq) for RQ and V(bull) for BullMQ.
    type: str
  processing:
    description:
      - For O(backend=redis_list), the lists that hold what workers are executing. C({queue}) stands for the queue's name.
      - A pattern (C(*), C(?), C([)) makes each look walk over the key names of the database; name the lists where it holds many keys.
      - What follows the first colon after C({queue}:processing) is taken as the worker's name.
    type: list
    elements: str
    default: ["{queue}:processing*"]
  failed_list:
    description: For O(backend=redis_list), the list that holds failed tasks. C({queue}) stands for the queue's name.
    type: str
    default: "{queue}:failed"
  dead_letter:
    description:
      - The queue, stream or key that holds the tasks that failed or were dead-lettered, where the system does not say it itself.
      - C({queue}) stands for the queue's name.
    type: str
  group:
    description: For O(backend=redis_stream), the consumer group. Default is all groups of the stream, which are then counted together.
    type: str
  stream:
    description: For O(backend=nats), the stream that the consumer belongs to, unless queues are named C(<stream>/<consumer>).
    type: str
  schema:
    description: For O(backend=procrastinate), the schema with its tables. Default is the one that the connection finds first.
    type: str
  id_field:
    description: A field of the JSON payload that identifies a task, for systems that give it no id of their own.
    type: str
  management_url:
    description: For RabbitMQ, where its management plugin answers. Default is port 15672 of the broker's host.
    type: str
  sentinel_username:
    description: User at the sentinels, for an O(url) with V(redis+sentinel).
    type: str
  sentinel_password:
    description: Password at the sentinels.
    type: str
  heartbeat_timeout:
    description:
      - For O(backend=dramatiq) on Redis, seconds after which a worker without a heartbeat is gone.
      - It has to be the application's own C(heartbeat_timeout), which is 60 unless it was changed.
    type: float
  abandoned_after:
    description:
      - For O(backend=redis_stream), seconds of silence after which a consumer without a connection of its name is gone. Default is 600.
    type: float
  credentials:
    description: For O(backend=nats), a credentials file on the host that runs this task. It needs the Python library C(nkeys).
    type: path
  ask_workers:
    description:
      - For O(backend=celery), whether to ask the workers what they are executing, for the broker does not know.
      - The question and the answers go over the broker, as with C(celery inspect), through a queue that is gone afterwards.
      - Default is no for M(queueops.fleet.queue_info), which changes nothing at all, and yes for the others.
    type: bool
  celery:
    description: For O(backend=celery), what the application has set to other than Celery's own defaults.
    type: dict
    suboptions:
      control_exchange:
        description: Its C(control_exchange).
        type: str
      inspect_timeout:
        description: Seconds to wait for the workers' answers.
        type: float
      priority_steps:
        description: The C(priority_steps) of its Redis transport.
        type: list
        elements: int
      result_db:
        description: The number of the Redis database that holds its results, if it is another than the broker's.
        type: int
      result_prefix:
        description: The C(global_keyprefix) of its result backend.
        type: str
      sep:
        description: The C(sep) of its Redis transport.
        type: str
requirements:
  - For the Redis systems the Python library C(redis), 4.3 or newer (C(python3-redis) of Debian and Ubuntu); for RabbitMQ C(amqp),
    5.1 or newer (C(python3-amqp)); for NATS C(nats-py); for PostgreSQL C(psycopg), 3 or newer (C(python3-psycopg)).
    They are needed on the host that runs the task.
notes:
  - Run it on a host that reaches the broker, for example with C(delegate_to). The queue system's own library is not needed.
  - A worker's version is read from its name, by the convention C(<app>@<version>:<host>:<anything>), for example
    C(mailer@1.0.0:worker1:1), unless the system records it elsewhere.
  - Payloads are data. They are never unpickled or evaluated, and never shown.
"""
