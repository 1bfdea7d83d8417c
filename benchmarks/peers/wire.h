/* HTTP/1.1 framing, shared by backend.c and load.c: one incremental reader for requests and answers.
 *
 * A message is fed bytes as they arrive and never needs them twice, so both tools stay one read() and one
 * write() per message: together they must outrun HAProxy while sharing a single core.
 */
#ifndef WIRE_H
#define WIRE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 8192, READ_MAX = 65536, FD_MAX = 65536, EVENTS_MAX = 512 };

enum stage { HEAD, LENGTH, UNTIL_CLOSE, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, DONE, BROKEN };

struct message {
    enum stage stage;
    bool is_answer;      /* an answer without a length runs until close; a request without one has no body */
    bool wants_close;    /* the peer said "Connection: close" */
    int status;          /* answers only */
    int64_t left;        /* body or chunk bytes still to come */
    size_t head_len;
    size_t line_len;     /* length of the current chunk-size or trailer line */
    char head[HEAD_MAX + 1];
};

typedef void (*body_sink)(void *owner, const char *bytes, size_t n);

static inline void die(const char *what, ...) {
    va_list args;
    va_start(args, what);
    vfprintf(stderr, what, args);
    va_end(args);
    fprintf(stderr, "%s%s\n", errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void message_reset(struct message *m, bool is_answer) {
    m->stage = HEAD;
    m->is_answer = is_answer;
    m->wants_close = false;
    m->status = 0;
    m->left = 0;
    m->head_len = m->line_len = 0;
}

/* The value of a header, or NULL. The head is NUL-terminated and starts with its request or status line. */
static inline const char *header(const struct message *m, const char *name) {
    size_t n = strlen(name);
    for (const char *line = strchr(m->head, '\n'); line; line = strchr(line + 1, '\n')) {
        if (strncasecmp(line + 1, name, n) == 0 && line[1 + n] == ':') {
            const char *value = line + n + 2;
            return value + strspn(value, " \t");
        }
    }
    return NULL;
}

/* The head is complete: decides how the body is framed (RFC 9112 section 6.3, the part both tools need). */
static inline void message_frame(struct message *m) {
    const char *coding = header(m, "transfer-encoding"), *length = header(m, "content-length");
    const char *connection = header(m, "connection");
    m->wants_close = connection && strncasecmp(connection, "close", 5) == 0;
    if (m->is_answer) m->status = m->head_len > 12 ? atoi(m->head + 9) : 0;
    if (coding && strncasecmp(coding, "chunked", 7) == 0) m->stage = CHUNK_SIZE;
    else if (length) m->stage = (m->left = atoll(length)) > 0 ? LENGTH : DONE;
    else m->stage = m->is_answer ? UNTIL_CLOSE : DONE;
}

/* Takes bytes of the head; returns how many belonged to it. */
static inline size_t feed_head(struct message *m, const char *bytes, size_t n) {
    size_t room = HEAD_MAX - m->head_len, take = n < room ? n : room, before = m->head_len;
    memcpy(m->head + before, bytes, take);
    size_t from = before > 3 ? before - 3 : 0;
    char *end = memmem(m->head + from, before + take - from, "\r\n\r\n", 4);
    m->head_len = end ? (size_t)(end - m->head) + 4 : before + take;
    m->head[m->head_len] = 0;
    if (end) message_frame(m);
    else if (take == room) m->stage = BROKEN;
    return m->head_len - before;
}

/* Takes one byte of a chunk-size, chunk-end or trailer line. */
static inline void feed_line(struct message *m, char c) {
    if (c == '\r') return;
    if (c != '\n') {
        if (m->stage == CHUNK_SIZE) {
            int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
            if (digit < 0) m->stage = BROKEN;
            else m->left = m->left * 16 + digit;
        }
        m->line_len++;
        return;
    }
    if (m->stage == CHUNK_SIZE) m->stage = m->left > 0 ? CHUNK_DATA : TRAILER;
    else if (m->stage == CHUNK_END) m->stage = CHUNK_SIZE;
    else if (m->line_len == 0) m->stage = DONE; /* an empty line ends the trailer */
    m->line_len = 0;
}

/* Feeds n bytes and passes body bytes to sink; stops at the end of the message. Returns the bytes used. */
static inline size_t message_feed(struct message *m, const char *bytes, size_t n, body_sink sink, void *owner) {
    size_t used = 0;
    while (used < n && m->stage != DONE && m->stage != BROKEN) {
        if (m->stage == HEAD) {
            used += feed_head(m, bytes + used, n - used);
        } else if (m->stage == LENGTH || m->stage == CHUNK_DATA) {
            size_t take = n - used < (size_t)m->left ? n - used : (size_t)m->left;
            sink(owner, bytes + used, take);
            used += take;
            m->left -= (int64_t)take;
            if (m->left == 0) m->stage = m->stage == LENGTH ? DONE : CHUNK_END;
        } else if (m->stage == UNTIL_CLOSE) {
            sink(owner, bytes + used, n - used);
            used = n;
        } else {
            feed_line(m, bytes[used++]);
        }
    }
    return used;
}

static inline struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static inline void set_nodelay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static inline void watch(int epoll, int fd) {
    struct epoll_event want = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &want) < 0) die("epoll_ctl");
}

#endif
