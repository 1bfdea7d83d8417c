/* The load generator: load --port P --body FILE [--conns N] [--rate R | --streams] [--warmup S] [--seconds S]
 *
 *   default     closed loop: every connection sends again as soon as it has its answer (highest throughput)
 *   --rate R    open loop: request i is due at start + i/R whatever happened before. Latency counts from when it
 *               was due, not from when a connection came free: no coordinated omission.
 *   --streams   opens N streams (at most --ramp new ones a second), then counts their events
 *
 * Prints {"event": "start"} when the measured window opens and one {"event": "end", ...} when it closes, so that
 * the driver can read the proxy's CPU clock at the same two moments. Latencies are in microseconds.
 */
#include "wire.h"

/* Latency histogram: 128 steps per power of two, so a bucket is at most 0.8 % wide. */
enum { STEP_BITS = 7, STEPS = 1 << STEP_BITS, BUCKETS = STEPS * 40 };

struct conn {
    int fd;
    bool busy, opened; /* opened: a stream that has had its first event */
    int64_t due_ns;    /* when the request in flight should have left */
    int64_t stamp;     /* the event time being read, behind an '@' */
    bool in_stamp;
    struct message answer;
};

enum phase { RAMP, WARMUP, WINDOW };

static struct {
    int port, conns, ramp;
    double rate, warmup_s, seconds;
    bool streams;
    const char *body;
} want = {.conns = 32, .ramp = 500, .warmup_s = 0.5, .seconds = 4};

static struct {
    int64_t answers, errors, reconnects, events, worst_ns;
    int64_t buckets[BUCKETS];
} seen;

static struct conn *conns[FD_MAX], *idle[FD_MAX];
static int idle_count, made, opened, lost, epoll;
static enum phase phase = RAMP;
static int64_t next_due, interval, window_start;
static char request[HEAD_MAX * 4];
static size_t request_len;

static void count_latency(int64_t ns) {
    if (ns < STEPS) ns = STEPS;
    if (ns > seen.worst_ns) seen.worst_ns = ns;
    int shift = 63 - __builtin_clzll((unsigned long long)ns) - STEP_BITS;
    int64_t bucket = (int64_t)shift * STEPS + (ns >> shift) - STEPS;
    seen.buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

/* Upper edge of the bucket that holds the given share of all samples, in microseconds. */
static double percentile(double share) {
    int64_t total = 0, sum = 0;
    for (int i = 0; i < BUCKETS; i++) total += seen.buckets[i];
    for (int i = 0; i < BUCKETS; i++) {
        sum += seen.buckets[i];
        if (total && (double)sum >= share * (double)total) return (double)((int64_t)(i % STEPS + STEPS + 1) << (i / STEPS)) / 1e3;
    }
    return 0;
}

static void prepare_request(void) {
    static char body[HEAD_MAX * 2];
    FILE *file = fopen(want.body, "r");
    if (!file) die("%s", want.body);
    size_t n = fread(body, 1, sizeof body, file);
    fclose(file);
    int head = snprintf(request, sizeof request,
                        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: bench/1.0\r\n"
                        "Accept: application/json\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                        want.port, n);
    memcpy(request + head, body, n);
    request_len = (size_t)head + n;
}

static void report(bool at_start) {
    if (at_start) printf("{\"event\": \"start\", \"opened\": %d, \"lost\": %d}\n", opened, lost);
    else {
        double seconds = (double)(now_ns() - window_start) / 1e9;
        printf("{\"event\": \"end\", \"seconds\": %.4f, \"answers\": %lld, \"errors\": %lld, \"reconnects\": %lld, "
               "\"events\": %lld, \"open_streams\": %d, \"lost\": %d, \"p50_us\": %.1f, \"p90_us\": %.1f, "
               "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}\n",
               seconds, (long long)seen.answers, (long long)seen.errors, (long long)seen.reconnects,
               (long long)seen.events, opened - lost, lost, percentile(.5), percentile(.9), percentile(.99),
               percentile(.999), (double)seen.worst_ns / 1e3);
    }
    fflush(stdout);
}

static bool send_request(struct conn *c, int64_t due_ns) {
    c->busy = true;
    c->due_ns = due_ns;
    c->in_stamp = false;
    message_reset(&c->answer, true);
    return write(c->fd, request, request_len) == (ssize_t)request_len;
}

static struct conn *open_conn(void) {
    struct sockaddr_in address = loopback(want.port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || fd >= FD_MAX) die("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return NULL;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    set_nodelay(fd);
    struct conn *c = calloc(1, sizeof *c);
    if (!c) die("out of memory");
    c->fd = fd;
    message_reset(&c->answer, true);
    conns[fd] = c;
    watch(epoll, fd);
    return c;
}

static void forget(struct conn *c) {
    for (int i = 0; i < idle_count; i++) {
        if (idle[i] == c) {
            idle[i] = idle[--idle_count];
            break;
        }
    }
    conns[c->fd] = NULL;
    close(c->fd);
    free(c);
}

static void ready_again(struct conn *c);

/* A connection is gone. A lost stream stays lost; a request connection is made anew. */
static void lose(struct conn *c, bool is_error) {
    if (want.streams) {
        lost++;
        if (!c->opened) opened++; /* so that opened - lost stays the number of live streams */
    }
    seen.errors += is_error;
    seen.reconnects++;
    forget(c);
    if (want.streams) return;
    struct conn *fresh = open_conn();
    if (fresh) ready_again(fresh);
    else if (++lost == want.conns) die("every connection was refused");
}

static void ready_again(struct conn *c) {
    c->busy = false;
    if (interval) idle[idle_count++] = c;
    else if (!send_request(c, now_ns())) lose(c, true);
}

/* Body bytes: every event carries "@<ns>", the moment the backend wrote it. */
static void read_events(void *owner, const char *bytes, size_t n) {
    struct conn *c = owner;
    if (!want.streams) return;
    for (size_t i = 0; i < n; i++) {
        if (!c->in_stamp) {
            const char *at = memchr(bytes + i, '@', n - i);
            if (!at) return;
            i = (size_t)(at - bytes);
            c->in_stamp = true;
            c->stamp = 0;
        } else if (bytes[i] >= '0' && bytes[i] <= '9') {
            c->stamp = c->stamp * 10 + (bytes[i] - '0');
        } else {
            c->in_stamp = false;
            seen.events++;
            opened += !c->opened;
            c->opened = true;
            if (phase == WINDOW) count_latency(now_ns() - c->stamp);
        }
    }
}

static void finish(struct conn *c) {
    bool good = c->answer.status == 200 && !want.streams; /* a stream must outlast the run */
    if (good) {
        seen.answers++;
        if (phase == WINDOW) count_latency(now_ns() - c->due_ns);
    }
    if (want.streams || c->answer.wants_close) lose(c, !good);
    else {
        seen.errors += !good;
        ready_again(c);
    }
}

static void readable(struct conn *c) {
    static char bytes[READ_MAX];
    ssize_t n = read(c->fd, bytes, sizeof bytes);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        lose(c, c->busy);
        return;
    }
    message_feed(&c->answer, bytes, (size_t)n, read_events, c);
    if (c->answer.stage == DONE) finish(c);
    else if (c->answer.stage == BROKEN) lose(c, true);
}

/* Opens what the ramp allows by now; a stream sends its request at once. */
static void ramp_up(int64_t since_ns) {
    int64_t allowed = want.streams ? 1 + since_ns * want.ramp / 1000000000 : want.conns;
    for (; made < want.conns && made < allowed; made++) {
        struct conn *c = open_conn();
        if (!c && !want.streams) die("port %d", want.port);
        if (!c) opened++, lost++, seen.errors++;
        else if (!want.streams) ready_again(c);
        else if (!send_request(c, now_ns())) lose(c, true);
    }
}

/* Moves RAMP -> WARMUP -> WINDOW; true when the window is over. */
static bool advance(int64_t now, int64_t *phase_start) {
    double in_phase_s = (double)(now - *phase_start) / 1e9;
    if (phase == RAMP && made == want.conns &&
        (!want.streams || opened >= want.conns || in_phase_s > 20 + (double)want.conns / want.ramp)) {
        phase = WARMUP;
        *phase_start = now;
    } else if (phase == WARMUP && in_phase_s >= want.warmup_s) {
        report(true);
        memset(&seen, 0, sizeof seen);
        phase = WINDOW;
        *phase_start = window_start = now_ns();
    } else if (phase == WINDOW && in_phase_s >= want.seconds) {
        report(false);
        return true;
    }
    return false;
}

static void send_due(int64_t now) {
    for (; next_due <= now && idle_count; next_due += interval) {
        struct conn *c = idle[--idle_count];
        if (!send_request(c, next_due)) lose(c, true);
    }
}

static void parse(int argc, char **argv) {
    static const struct option options[] = {
        {"port", 1, 0, 'p'}, {"body", 1, 0, 'b'}, {"conns", 1, 0, 'c'}, {"rate", 1, 0, 'r'}, {"streams", 0, 0, 'S'},
        {"ramp", 1, 0, 'm'}, {"warmup", 1, 0, 'w'}, {"seconds", 1, 0, 's'}, {0}};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == 'p') want.port = atoi(optarg);
        else if (o == 'b') want.body = optarg;
        else if (o == 'c') want.conns = atoi(optarg);
        else if (o == 'r') want.rate = atof(optarg);
        else if (o == 'S') want.streams = true;
        else if (o == 'm') want.ramp = atoi(optarg);
        else if (o == 'w') want.warmup_s = atof(optarg);
        else if (o == 's') want.seconds = atof(optarg);
        else exit(2);
    }
    if (!want.port || !want.body) die("load needs --port and --body");
}

int main(int argc, char **argv) {
    parse(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1L); /* the default slack of 50 us would blur the latencies */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    epoll = epoll_create1(0);
    prepare_request();
    if (want.rate > 0) interval = (int64_t)(1e9 / want.rate);
    int64_t start = now_ns(), phase_start = start;
    next_due = start;
    for (struct epoll_event ready[EVENTS_MAX];;) {
        int64_t now = now_ns(), wait_ns = 2000000;
        if (made < want.conns) ramp_up(now - start);
        if (advance(now, &phase_start)) return 0;
        if (interval) {
            send_due(now);
            if (idle_count && next_due - now < wait_ns) wait_ns = next_due > now ? next_due - now : 0;
        }
        struct timespec timeout = {.tv_sec = 0, .tv_nsec = wait_ns};
        int n = epoll_pwait2(epoll, ready, EVENTS_MAX, &timeout, NULL);
        for (int i = 0; i < n; i++) {
            struct conn *c = conns[ready[i].data.fd];
            if (c) readable(c);
        }
    }
}
