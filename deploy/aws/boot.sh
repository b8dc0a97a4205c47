# What a node does at its first start, as root on Amazon Linux 2023. Its settings are above, in the file that it reads;
# all that it runs is in one image, whose files become /opt/piecework. A node that can't be made ready powers itself
# off, which ends it: Auto Scaling starts another one, and nobody pays for a node that does nothing.
set -Eeuo pipefail
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/aws/bin
# shellcheck disable=SC1091
. /run/piecework.boot
DATABASE_PORT=${DATABASE##*:}
HOME_DIRECTORY=/opt/piecework

say() { echo "piecework-boot: $*" >&2; }

fail() {
    trap - ERR
    [ ! -e /run/piecework.failed ] || exit 1  # within a substitution, the shell around it fails as well
    touch /run/piecework.failed
    say "failed: $* (line ${BASH_LINENO[0]}); this node powers itself off"
    if [ "$KIND" = control ]; then
        cfn-signal --success false --reason "boot.sh: $*" --stack "$STACK" --resource ControlGroup --region "$REGION" || true
    fi
    sleep 60  # for the agent to send this log
    systemctl poweroff
    exit 1
}
trap 'fail "$BASH_COMMAND"' ERR

again() {  # what the network may fail, five times
    local pause
    for pause in 2 4 8 16; do
        "$@" && return
        say "again in $pause s: $1"
        sleep "$pause"
    done
    "$@" || fail "$*"
}

put() {  # put MODE FILE: its content is standard input
    install -D -m "$1" /dev/stdin "$2"
}

install_packages() {
    say "install packages"
    again dnf install -y -q docker nftables amazon-cloudwatch-agent aws-cfn-bootstrap
}

send_logs() {
    install -d -m 0755 "/var/log/piecework"
    put 0644 /opt/aws/amazon-cloudwatch-agent/etc/piecework.json <<END
{"logs": {"logs_collected": {"files": {"collect_list": [
  {"file_path": "/var/log/cloud-init-output.log", "log_group_name": "$LOGS", "log_stream_name": "{instance_id}/boot"},
  {"file_path": "/var/log/piecework/*.log", "log_group_name": "$LOGS", "log_stream_name": "{instance_id}/services",
   "publish_multi_logs": true}
]}}}}
END
    put 0644 /etc/logrotate.d/piecework <<'END'
/var/log/piecework/*.log {
    size 50M
    rotate 2
    copytruncate
    missingok
}
END
    amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c file:/opt/aws/amazon-cloudwatch-agent/etc/piecework.json
}

# Tasks run as users 52000 to 52999, and containers behind a bridge: neither gets at the node's credentials or the
# grid's database, whose port is nobody else's.
fence_tasks() {
    local metadata='' forwarded=''
    if [ "$TASKS_USE_NODE_ROLE" = false ]; then
        metadata='meta skuid 52000-52999 ip daddr 169.254.169.254 reject
        meta skuid 52000-52999 ip6 daddr fd00:ec2::254 reject'
        forwarded='ip daddr 169.254.169.254 reject
        ip6 daddr fd00:ec2::254 reject'
    fi
    put 0644 /etc/nftables/piecework.nft <<END
table inet piecework
delete table inet piecework
table inet piecework {
    chain tasks {
        type filter hook output priority 0; policy accept;
        $metadata
        meta skuid 52000-52999 tcp dport $DATABASE_PORT reject
    }
    chain containers {
        type filter hook forward priority -10; policy accept;
        $forwarded
        tcp dport $DATABASE_PORT reject
    }
}
END
    put 0644 /etc/systemd/system/piecework-fence.service <<END
[Unit]
Description=Keeps tasks from the node's credentials and the database
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/nftables/piecework.nft
${TASK_ROLE:+ExecStart=/usr/sbin/ip address replace 169.254.170.2/32 dev lo}
END
    nft -f "/etc/nftables/piecework.nft"
}

trust_database() {
    say "trust the certificates of RDS"
    install -d -m 0755 "/etc/piecework"
    if [ -s "$HOME_DIRECTORY/etc/piecework/rds.pem" ]; then  # for nodes that do not reach the internet
        put 0644 "/etc/piecework/rds.pem" <"$HOME_DIRECTORY/etc/piecework/rds.pem"
    else
        again curl -fsS --proto =https --max-time 30 -o "/etc/piecework/rds.pem" \
            https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
    fi
    grep -q 'BEGIN CERTIFICATE' "/etc/piecework/rds.pem"
}

log_in() { aws ecr get-login-password --region "$(cut -d. -f4 <<<"$1")" | docker login -u AWS --password-stdin "$1"; }

unpack_image() {
    local registry=${IMAGE%%/*} container
    say "pull $IMAGE"
    systemctl start docker
    case $registry in *.dkr.ecr.*) again log_in "$registry" ;; esac
    again docker pull -q "$IMAGE"
    container=$(docker create "$IMAGE")
    install -d -m 0755 "$HOME_DIRECTORY"
    docker export "$container" | tar -x -C "$HOME_DIRECTORY"
    docker rm "$container" >/dev/null
    docker rmi "$IMAGE" >/dev/null
    test -x "$HOME_DIRECTORY/usr/local/bin/python"
    id -u piecework >/dev/null 2>&1 || useradd --system --uid 10001 piecework  # as in the image
    install -d -m 0711 "/var/lib/piecework"
}

# settings USER: those of all services, for one database user
settings() {
    cat <<END
AWS_DEFAULT_REGION=$REGION
AWS_METADATA_SERVICE_NUM_ATTEMPTS=5
AWS_METADATA_SERVICE_TIMEOUT=2
PIECEWORK_BUCKET=$BUCKET
PIECEWORK_BUCKET_OWNER=$ACCOUNT
PIECEWORK_QUEUE_PREFIX=$GRID-
PIECEWORK_DATABASE_URL=postgresql://$1@$DATABASE/piecework
PIECEWORK_DATABASE_PASSWORD_FROM=iam
PIECEWORK_DATABASE_TLS=verify-full
PIECEWORK_DATABASE_CA=/etc/piecework/rds.pem
PIECEWORK_HEALTH_PORT=8002
PIECEWORK_READ_FROM=${READ_FROM:-}
PIECEWORK_WRITE_TO=${WRITE_TO:-}
END
}

# unit NAME COMMAND [LINE…]: a service within the image's files; further lines are of its section [Service]
unit() {
    local name=$1 command=$2 user=piecework
    shift 2
    if [ "$name" = worker ]; then user=root; fi  # it runs each task as a user of its own
    put 0644 "/etc/systemd/system/piecework-$name.service" <<END
[Unit]
Description=Piecework $name $VERSION
After=network-online.target piecework-fence.service docker.service
Requires=piecework-fence.service
StartLimitIntervalSec=0
[Service]
RootDirectory=$HOME_DIRECTORY
WorkingDirectory=/app
MountAPIVFS=yes
BindReadOnlyPaths=/etc/resolv.conf /etc/hosts /etc/piecework
User=$user
EnvironmentFile=/etc/piecework/$name.env
Environment=PYTHONUNBUFFERED=1 PATH=/usr/local/bin:/usr/bin:/bin
ExecStart=$command
Restart=on-failure
RestartSec=30
KillMode=mixed
OOMScoreAdjust=-500
StandardOutput=append:/var/log/piecework/$name.log
StandardError=inherit
$(printf '%s\n' "$@")
[Install]
WantedBy=multi-user.target
END
}

# A service that tells systemd each second that it lives, and is started again if it says nothing for a minute. While
# it starts or stops it has more time each time that it says so.
ALIVE=(Type=notify NotifyAccess=main WatchdogSec=60)

# watch PROBES: says each minute whether the services answer, and ends a worker's node after fifteen minutes of silence.
watch() {
    local probes=$1
    put 0755 /usr/local/bin/piecework-health <<END
#!/bin/bash
cd /run || exit
ready=ready
for probe in $probes; do
    name=\${probe%%=*}
    if curl -fsS -m 5 -o /dev/null "http://127.0.0.1:\${probe#*=}" 2>/dev/null; then
        rm -f "piecework-\$name.silent"
    else
        ready="not ready: \$name"
        echo >>"piecework-\$name.silent"
        silent=\$(wc -l <"piecework-\$name.silent")
        if [ "\$silent" -ge 15 ] && [ "$KIND" = worker ]; then systemctl poweroff; fi
    fi
done
echo "piecework-health: \$ready" >>/var/log/piecework/health.log
END
    put 0644 /etc/systemd/system/piecework-health.service <<'END'
[Service]
Type=oneshot
ExecStart=/usr/local/bin/piecework-health
END
    put 0644 /etc/systemd/system/piecework-health.timer <<'END'
[Timer]
OnActiveSec=60
OnUnitActiveSec=60
AccuracySec=1
[Install]
WantedBy=timers.target
END
}

ready() {  # ready URL: it answers within five minutes
    local _
    for _ in $(seq 150); do
        curl -fsS -m 2 -o /dev/null "$1" 2>/dev/null && return
        sleep 2
    done
    fail "no answer from $1"
}

run_once() {  # run_once NAME COMMAND: to its end, as a unit
    unit "$1" "$2" Type=oneshot Restart=no
    systemctl daemon-reload
    systemctl start "piecework-$1" || fail "$1: $(tail -n 3 "/var/log/piecework/$1.log" | tr '\n' ' ' || true)"
}

boot_control() {
    local webhook_key services="api stats scheduler"
    # shellcheck disable=SC2153
    webhook_key=$(again aws secretsmanager get-secret-value --region "$REGION" --secret-id "$WEBHOOK_KEY" \
        --query SecretString --output text)
    {
        settings piecework_owner | grep -v PASSWORD_FROM
        echo "PIECEWORK_DATABASE_PASSWORD_FROM=$DATABASE_OWNER#password"
    } | tee >(put 0600 /etc/piecework/logins.env) | put 0600 /etc/piecework/migrate.env
    {
        settings piecework_api_login
        echo "PIECEWORK_SECRET_KEY=$webhook_key"
        echo "PIECEWORK_BOOTSTRAP_API_KEY_FROM=$BOOTSTRAP_KEY"
    } | put 0600 /etc/piecework/api.env
    {
        settings piecework_scheduler_login
        echo "PIECEWORK_SECRET_KEY=$webhook_key"
    } | put 0600 /etc/piecework/scheduler.env
    settings piecework_stats_login | put 0600 /etc/piecework/stats.env

    say "bring the schema up to date"
    run_once migrate '/usr/local/bin/python -m services.engine.migrate'
    run_once logins '/usr/local/bin/python -m services.engine.logins'
    local serve='--host 0.0.0.0 --no-access-log --timeout-graceful-shutdown 5'
    unit api "/usr/local/bin/uvicorn services.api.main:app --port 8000 $serve" "${ALIVE[@]}"
    unit stats "/usr/local/bin/uvicorn services.stats.main:app --port 8001 $serve" "${ALIVE[@]}"
    unit scheduler '/usr/local/bin/python -m services.scheduler' "${ALIVE[@]}"
    watch 'api=8000/readyz stats=8001/readyz scheduler=8002/healthz'
    systemctl stop docker
    systemctl daemon-reload
    for service in $services; do systemctl enable -q --now --no-block "piecework-$service"; done
    ready http://127.0.0.1:8000/readyz
    ready http://127.0.0.1:8001/readyz
    ready http://127.0.0.1:8002/healthz
    systemctl enable -q --now piecework-health.timer
    cfn-signal --success true --stack "$STACK" --resource ControlGroup --region "$REGION" \
        || say "the stack waits for no node: this one replaces another"
}

boot_worker() {
    {
        settings piecework_worker_login
        cat <<END
PIECEWORK_POOL=$POOL
PIECEWORK_SLOTS=$SLOTS
PIECEWORK_DRAIN_SECONDS=$DRAIN_SECONDS
PIECEWORK_DATABASE_CONNECTIONS_MAX=3
PIECEWORK_LIFECYCLE_HOOK=$GRID-$POOL-drain
PIECEWORK_TASK_UIDS=52000-52999
PIECEWORK_TASK_ROLE=$TASK_ROLE
PIECEWORK_SCRATCH=/var/lib/piecework/scratch
PIECEWORK_CACHE=/var/lib/piecework/cache
END
        if [ "$CONTAINERS" = true ]; then
            echo PIECEWORK_CONTAINER_ENGINE=unix:///run/docker.sock
            echo "PIECEWORK_IMAGES_BYTES_MAX=$(($(df -B1 --output=size /var/lib | tail -n 1) / 3))"
        else
            echo PIECEWORK_CONTAINER_ENGINE=none
        fi
    } | put 0600 /etc/piecework/worker.env
    # Drained (0), it has ended its instance; if it could not (71), the machine's power ends it all the same. That is no
    # SuccessAction=, which systemd 252 also does at each restart.
    put 0755 /usr/local/bin/piecework-worker-ended <<'END'
#!/bin/bash
case $EXIT_CODE:$EXIT_STATUS in exited:0 | exited:71) systemctl --no-block poweroff ;; esac
END
    unit worker '/usr/local/bin/python -m services.worker' "${ALIVE[@]}" "TimeoutStopSec=$((DRAIN_SECONDS + 15))" \
        SuccessExitStatus=71 RootDirectoryStartOnly=yes ExecStopPost=+/usr/local/bin/piecework-worker-ended \
        Delegate=yes 'BindPaths=/var/lib/piecework /sys/fs/cgroup' 'BindReadOnlyPaths=-/run/docker.sock'
    watch 'worker=8002/healthz'
    systemctl daemon-reload
    if [ "$CONTAINERS" = true ]; then systemctl enable -q docker; else systemctl stop docker docker.socket; fi
    systemctl enable -q --now --no-block piecework-worker
    ready http://127.0.0.1:8002/healthz
    systemctl enable -q --now piecework-health.timer
}

TASKS_USE_NODE_ROLE=${TASKS_USE_NODE_ROLE:-false}
say "$KIND node of the grid $GRID, version $VERSION"
install_packages
send_logs
fence_tasks
unpack_image
trust_database
"boot_$KIND"
say "ready"
