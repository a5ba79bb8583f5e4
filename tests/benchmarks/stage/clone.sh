#!/bin/bash
# clone.sh PAUSE TRIES BASE SESSION BODY URL: one clone as people write it for GNU parallel: a POST, then a poll each
# second until the job has ended. Calls of all jobs are PAUSE seconds apart. What fails is sent again, as a new request.
pause=$1 tries=$2 base=$3 session=$4 body=$5 url=$6

call() {
    flock turn sleep "$pause"
    curl -s -o /dev/null -w '%{http_code}' -H "Authorization: OAuth $session" "$@"
}

for _ in $(seq "$tries"); do
    job=$(tr -d - < /proc/sys/kernel/random/uuid)
    status=$(call -X POST -H 'Content-Type: application/json;charset=UTF-8' -H "X-Job-UUID: $job" --data "$body" "$url")
    while [ "$status" = 202 ]; do
        sleep 1
        status=$(call "$base/v1/api-jobs/$job")
    done
    [ "$status" = 200 ] && exit 0
done
exit 1
