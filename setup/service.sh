# What the two servers have in common: one process with its folder, log and pid file. Sourced by them.
# shellcheck shell=bash disable=SC2034

# Who runs PostgreSQL for root must be able to read what is made here.
umask 022
# SIGTERM to a whole group of processes must not end a start between the server's birth and its pid file.
trap : TERM

verb="${1:?start or stop}"
dir="$(realpath -m -- "${2:?a folder}")"

# Prints the pid of this folder's server, if it runs. Pids are given out again, so its arguments must name the folder.
running() {
    local pid arguments
    pid="$(cat "$dir/pid" 2>/dev/null)" || return 1
    arguments="$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")" || return 1
    [[ "$arguments" == *"$dir/"* ]] && echo "$pid"
}

# launch NAME PORT COMMAND...: starts a server in a session of its own (Ctrl-C is for the command in front, the services stop after
# it) and returns once `answers` is true.
launch() {
    local name="$1" port="$2" pid end=$((SECONDS + 60))
    shift 2
    running >/dev/null && fail "$name runs already in $dir" 69
    # `answers` may look for a line in the log: only this start's counts.
    log_start="$(($(stat -c %s "$dir/log" 2>/dev/null || echo 0) + 1))"
    setsid "$@" >>"$dir/log" 2>&1 </dev/null 9>&- &
    pid=$!
    echo "$pid" >"$dir/pid"
    while [ "$SECONDS" -lt "$end" ]; do
        answers && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    tail -n 20 "$dir/log" >&2
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$dir/pid"
    fail "$name does not answer on port $port; the end of its log is above" 69
}

# halt SIGNAL: asks the server to stop, and after 10 s makes it.
halt() {
    local pid signal
    for signal in "$1" KILL; do
        pid="$(running)" || break
        kill "-$signal" "$pid" 2>/dev/null || true
        for _ in $(seq 200); do
            running >/dev/null || break
            sleep 0.05
        done
    done
    rm -f "$dir/pid"
}
