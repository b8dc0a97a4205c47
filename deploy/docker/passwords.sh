#!/bin/sh
# Write .env for docker-compose.yml: an operator's API key, webhooks' key, and a password for each database user. Once: it stays.
set -eu
cd "$(dirname "$0")/../.."
if [ -e .env ] && grep -q '^PIECEWORK_POSTGRES_PASSWORD=' .env; then
    echo ".env has them already"
    exit 0
fi
umask 077
random() { head -c 24 /dev/urandom | od -A n -t x1 | tr -d ' \n'; }
{
    echo "PIECEWORK_API_KEY=pw_$(random)"
    echo "PIECEWORK_SECRET_KEY=$(random)"
    for name in POSTGRES API SCHEDULER WORKER STATS; do
        echo "PIECEWORK_${name}_PASSWORD=$(random)"
    done
} >>.env
chmod 600 .env
echo "wrote .env"
