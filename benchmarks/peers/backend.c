/* The model engine behind every proxy: backend PORT...
 *
 * One thread, one epoll loop, HTTP/1.1 with keep-alive. Any GET (health, models, server info) gets one JSON
 * object that satisfies every router's probe. A POST is answered with a fixed 500-byte completion, or with an
 * SSE stream when its body says "stream": true. A stream's shape is read from two standard OpenAI fields, since
 * several routers parse and rewrite the body and would lose fields of our own:
 *     max_tokens  number of events        seed  events per second
 * Every event is one chunk and one write, and carries the monotonic time of that write as "@<nanoseconds>".
 */
#include "wire.h"

enum { BODY_MAX = 8192, WHEEL = 1024, EVENT_MAX = 512, ANSWER_BODY = 500 };

struct conn {
    int fd;
    bool listens;
    struct message request;
    size_t body_len;
    char body[BODY_MAX + 1];
    /* streaming */
    int events_left, period_ms;
    struct conn *next, **back; /* this stream's place in the wheel; back is NULL when it is not streaming */
    size_t pending_len;        /* the rest of an event that the socket took only in part */
    char pending[EVENT_MAX];
};

static struct conn *conns[FD_MAX];
static struct conn *wheel[WHEEL]; /* slot t % WHEEL: streams that send at millisecond t */
static int64_t wheel_ms;          /* the last millisecond served */
static int streaming, epoll;
static char answer[1024], info[1024];
static size_t answer_len, info_len;

static const char *const SSE_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                    "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

static size_t json_answer(char *out, size_t room, const char *body) {
    return (size_t)snprintf(out, room, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                            "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
}

static void prepare_answers(void) {
    char body[ANSWER_BODY + 1], padding[ANSWER_BODY];
    const char *start = "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1700000000,"
                        "\"model\":\"llama-3-8b\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
                        "\"content\":\"";
    const char *end = "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":128,"
                      "\"completion_tokens\":48,\"total_tokens\":176}}";
    size_t fill = ANSWER_BODY - strlen(start) - strlen(end);
    memset(padding, 'x', fill);
    snprintf(body, sizeof body, "%s%.*s%s", start, (int)fill, padding, end);
    answer_len = json_answer(answer, sizeof answer, body);
    info_len = json_answer(info, sizeof info,
                           "{\"status\":\"ok\",\"object\":\"list\",\"data\":[{\"id\":\"llama-3-8b\",\"object\":\"model\","
                           "\"created\":1700000000,\"owned_by\":\"bench\"}],\"model_path\":\"llama-3-8b\","
                           "\"served_model_name\":\"llama-3-8b\",\"tokenizer_path\":\"\",\"is_generation\":true}");
}

static void wheel_remove(struct conn *c) {
    if (!c->back) return;
    *c->back = c->next;
    if (c->next) c->next->back = c->back;
    c->back = NULL;
    streaming--;
}

static void wheel_insert(struct conn *c, int64_t at_ms) {
    struct conn **slot = &wheel[at_ms % WHEEL];
    c->next = *slot;
    c->back = slot;
    if (*slot) (*slot)->back = &c->next;
    *slot = c;
    streaming++;
}

static void drop(struct conn *c) {
    wheel_remove(c);
    conns[c->fd] = NULL;
    close(c->fd);
    free(c);
}

/* Writes all, or keeps the rest as pending. False: the connection is gone. */
static bool send_event(struct conn *c, const char *bytes, size_t n) {
    ssize_t sent = write(c->fd, bytes, n);
    if (sent < 0 && errno != EAGAIN) return false;
    if (sent < 0) return true; /* a slow reader misses this event; the framing stays whole */
    c->pending_len = n - (size_t)sent;
    memmove(c->pending, bytes + sent, c->pending_len);
    return true;
}

static bool stream_step(struct conn *c) {
    char data[EVENT_MAX], chunk[EVENT_MAX];
    if (c->pending_len) return send_event(c, c->pending, c->pending_len);
    if (c->events_left == 0) {
        const char *end = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
        return send_event(c, end, strlen(end));
    }
    c->events_left--;
    int n = snprintf(data, sizeof data,
                     "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                     "\"model\":\"llama-3-8b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@%lld\"},"
                     "\"finish_reason\":null}]}\n\n", (long long)now_ns());
    int total = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", n, data);
    return send_event(c, chunk, (size_t)total);
}

/* Sends every event due up to now_ms. Time is counted in whole milliseconds, so rates do not drift. */
static void wheel_turn(int64_t now_ms) {
    while (wheel_ms < now_ms) {
        struct conn *c = wheel[++wheel_ms % WHEEL], *next;
        for (; c; c = next) {
            next = c->next;
            bool was_last = c->events_left == 0 && c->pending_len == 0;
            if (!stream_step(c)) drop(c);
            else {
                wheel_remove(c);
                if (!was_last) wheel_insert(c, wheel_ms + c->period_ms);
            }
        }
    }
}

/* An integer field of the JSON body; good enough for a body we wrote ourselves, however it was re-spaced. */
static int field(const char *body, const char *name, int otherwise) {
    const char *at = strstr(body, name);
    if (!at) return otherwise;
    at += strlen(name);
    return atoi(at + strspn(at, "\": "));
}

static bool wants_stream(const char *body) {
    const char *at = strstr(body, "\"stream\"");
    if (!at) return false;
    at += strlen("\"stream\"");
    return strncmp(at + strspn(at, ": "), "true", 4) == 0;
}

static bool start_stream(struct conn *c) {
    static unsigned phase; /* spreads the streams over their period, as requests arriving at random would be */
    int per_s = field(c->body, "\"seed\"", 50);
    c->period_ms = per_s < 1 ? 1000 : per_s > 1000 ? 1 : 1000 / per_s;
    /* the SGLang router renames the deprecated field while it rewrites the body */
    c->events_left = field(c->body, "\"max_tokens\"", field(c->body, "\"max_completion_tokens\"", 50));
    if (write(c->fd, SSE_HEAD, strlen(SSE_HEAD)) < 0) return false;
    if (streaming == 0) wheel_ms = now_ns() / 1000000;
    wheel_insert(c, wheel_ms + 1 + phase++ % (unsigned)c->period_ms);
    return true;
}

static void keep_body(void *owner, const char *bytes, size_t n) {
    struct conn *c = owner;
    size_t room = BODY_MAX - c->body_len, take = n < room ? n : room;
    memcpy(c->body + c->body_len, bytes, take);
    c->body_len += take;
}

/* Answers the complete request and makes ready for the next. False: close the connection. */
static bool respond(struct conn *c) {
    bool is_get = strncmp(c->request.head, "GET ", 4) == 0, closes = c->request.wants_close, ok;
    c->body[c->body_len] = 0;
    if (is_get) ok = write(c->fd, info, info_len) > 0 && !closes;
    else if (wants_stream(c->body)) ok = start_stream(c);
    else ok = write(c->fd, answer, answer_len) > 0 && !closes;
    c->body_len = 0;
    message_reset(&c->request, false);
    return ok;
}

static void readable(struct conn *c) {
    static char bytes[READ_MAX];
    ssize_t n = read(c->fd, bytes, sizeof bytes);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) drop(c);
        return;
    }
    for (size_t used = 0; used < (size_t)n;) {
        used += message_feed(&c->request, bytes + used, (size_t)n - used, keep_body, c);
        if (c->request.stage == BROKEN || (c->request.stage == DONE && !respond(c))) {
            drop(c);
            return;
        }
    }
}

static struct conn *adopt(int fd, bool listens) {
    struct conn *c = calloc(1, sizeof *c);
    if (!c) die("out of memory");
    c->fd = fd;
    c->listens = listens;
    message_reset(&c->request, false);
    conns[fd] = c;
    watch(epoll, fd);
    return c;
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        set_nodelay(fd);
        adopt(fd, false);
    }
}

static void listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = loopback(port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0) die("port %d", port);
    adopt(fd, true);
}

int main(int argc, char **argv) {
    if (argc < 2) die("usage: backend PORT...");
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_TIMERSLACK, 1L);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* never outlives the driver */
    epoll = epoll_create1(0);
    prepare_answers();
    for (int i = 1; i < argc; i++) listen_on(atoi(argv[i]));
    for (struct epoll_event ready[EVENTS_MAX];;) {
        int n = epoll_wait(epoll, ready, EVENTS_MAX, streaming ? 1 : -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = conns[ready[i].data.fd];
            if (c && c->listens) accept_all(c->fd);
            else if (c) readable(c);
        }
        if (streaming) wheel_turn(now_ns() / 1000000);
    }
}
