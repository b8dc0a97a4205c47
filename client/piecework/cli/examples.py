"""Examples that the help of commands shows, by the command's full name. A test parses each of them."""

EXAMPLES = {
    "submit": (
        "piecework submit job.yaml --watch",
        "piecework submit --upload claims.csv --part-bytes 16MiB --stage clean@3",
        "piecework submit --input s3://claims/2026-10.csv --stage clean --merge concat:out.csv",
        "piecework submit --count 100 --processor simulate --param seed=7",
        "piecework submit --again @last --set stages.0.params.x=2",
        "piecework submit nightly.yaml --cron '0 6 * * *' --time-zone Europe/Berlin",
    ),
    "validate": ("piecework validate job.yaml", "piecework validate --upload claims.csv --stage clean@3"),
    "failures": ("piecework failures @last", "piecework failures @last --stage clean"),
    "split": (
        "piecework split job.yaml",
        "piecework split --upload claims.csv --part-bytes 16MiB",
    ),
    "watch": ("piecework watch @last", "piecework watch nightly@last"),
    "wait": (
        "piecework wait @last --timeout 2h && piecework results @last --download out",
        "piecework jobs --state running -o name | xargs piecework wait",
    ),
    "jobs list": (
        "piecework jobs --state failed --since 1d",
        "piecework jobs --name nightly --label team=claims --limit 5",
        "piecework jobs --mine --sort -progress.failed -o wide",
    ),
    "jobs show": ("piecework job @last", "piecework job 01a22741-5c -o json", "piecework job nightly@last-failed"),
    "cancel": ("piecework cancel @last", "piecework cancel 01a22741-5c --item 7 --item 8"),
    "pause": ("piecework pause @last",),
    "resume": ("piecework resume @last", "piecework jobs --state paused -o name | xargs -n 1 piecework resume"),
    "retry": ("piecework retry @last-failed --latest", "piecework retry @last-failed --with clean@4 --accept-changed"),
    "delete": ("piecework delete nightly@-2 --keep-results",),
    "append": ("piecework append @last items.jsonl --close",),
    "values": ("piecework values @last --follow",),
    "tasks list": (
        "piecework tasks @last --state failed",
        "piecework tasks @last --stage clean",
        "piecework tasks @last --sort -attempt",
    ),
    "tasks show": ("piecework task @last 0 17",),
    "logs": ("piecework logs @last", "piecework logs @last 0 17", "piecework logs @last clean 17 --attempt 1"),
    "results": (
        "piecework results @last",
        "piecework results @last-failed --partial",
        "piecework results @last --download out",
    ),
    "stats": ("piecework stats @last",),
    "cost": ("piecework cost @last",),
    "costs": ("piecework costs --days 7 --by-label team",),
    "upload": ("piecework upload claims.csv", "piecework upload photos", "piecework upload claims.csv --resume @last"),
    "uploads list": ("piecework uploads --state running --since 1w",),
    "uploads abort": ("piecework uploads abort @last",),
    "schedules create": (
        "piecework schedules create month-end job.yaml --cron '0 6 L * *'",
        "piecework schedules create nightly job.yaml --cron '0 2 * * *' --time-zone Europe/Berlin",
    ),
    "schedules show": ("piecework schedule nightly",),
    "schedules run": ("piecework schedules run nightly",),
    "schedules backfill": ("piecework schedules backfill nightly --from 2026-03-01 --to 2026-03-31 --running-max 2",),
    "schedules pause": ("piecework schedules pause nightly",),
    "triggers create": (
        "piecework triggers create incoming job.yaml --queue https://sqs.eu-central-1.amazonaws.com/1/in --suffix .csv",
    ),
    "webhooks create": ("piecework webhooks create https://example.org/hook --event job.failed",),
    "webhooks deliveries": (
        "piecework webhooks deliveries --job @last",
        "piecework webhooks deliveries --state failed",
    ),
    "webhooks redeliver": ("piecework webhooks redeliver @last-failed",),
    "processors register": (
        "piecework processors register thumbnails --command 'convert {input} -resize 128 {output}'",
        "piecework processors register totals --sql 'SELECT zip, count(*) FROM input GROUP BY zip'",
    ),
    "processors push": ("piecework processors push .",),
    "processors show": ("piecework processor clean", "piecework processor clean@3"),
    "processors delete": ("piecework processors delete clean@3",),
    "pools put": ("piecework pools put large --group large-nodes --slots 8",),
    "pools capacity": ("piecework pools capacity large --min 0 --max 50",),
    "workers list": ("piecework workers --pool large", "piecework workers --all --sort -heartbeat"),
    "workers drain": (
        "piecework workers drain i-0123456789abcdef0",
        "piecework workers drain --pool large --replace --at-most 2",
    ),
    "quotas show": ("piecework quotas", "piecework quotas show nightly"),
    "quotas set": ("piecework quotas set nightly --jobs-max 10",),
    "shares set": ("piecework shares set claims --tasks-max 1000000",),
    "retention put": (
        "piecework retention put default --interim 1d --records 90d",
        "piecework retention put audits --label kind=audit --results forever",
    ),
    "keys create": (
        "piecework keys create nightly --role submitter --expires-at 2027-01-31T00:00:00Z",
        "piecework keys create ben-laptop --role developer --principal ben --pool large",
    ),
    "keys revoke": ("piecework keys revoke ben-laptop",),
    "audit": ("piecework audit --since 1d --outcome refused", "piecework audit --action cancel_job"),
    "login": (
        "piecework login https://grid.example.org --context prod",
        "piecework login https://grid.example.org < key",
    ),
    "logout": ("piecework logout --context prod",),
    "contexts add": ("piecework context add prod https://grid.example.org",),
    "contexts use": ("piecework context use prod",),
    "contexts show": ("piecework context show",),
}


def examples_of(name: str) -> str | None:
    """What stands below the help of the command `pools put`."""
    lines = EXAMPLES.get(name)
    return "\n".join(("Examples:", *lines)) if lines else None
