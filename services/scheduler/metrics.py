"""What a scheduler measures of its own work. Each of several schedulers tells its part, and all tell of the queues."""

from prometheus_client import Counter, Gauge

WORKERS_LOST = Counter("piecework_workers_lost", "Workers whose lease ended without a heartbeat")
TASKS_GIVEN_BACK = Counter("piecework_tasks_given_back", "Running tasks made ready again, since their worker was lost")
PUT_OFFS = Counter("piecework_put_offs", "Plans and merges that failed for what passes, to be tried again")
MERGES_RUNNING = Gauge("piecework_merges_running", "Merges that this scheduler runs")
MESSAGES_REFUSED = Counter("piecework_queue_messages_refused", "Messages that SQS did not take; they are sent again")
QUEUE_MESSAGES = Gauge(
    "piecework_queue_messages", "Messages in a pool's queues, as SQS approximates them", ["pool", "queue"]
)
WEBHOOKS_RUNNING = Gauge("piecework_webhooks_running", "Deliveries that this scheduler has under way")
ALERT_MESSAGES = Counter("piecework_alert_tries", "Tries to deliver messages of alerts", ["channel", "outcome"])
