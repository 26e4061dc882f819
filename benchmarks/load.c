/* The two ends of every benchmark: a load generator and the backend that answers it.
 *
 *   load serve PORT REPLY_FILE          answer every request (up to a blank line, or 100 bytes when
 *                                       REPLY_FILE is "echo") on 127.0.0.1:PORT until killed
 *   load ask ADDRESS PORT REQUEST_FILE CONNECTIONS SECONDS kept|new
 *
 * One thread, epoll, one outstanding request a connection. `ask` learns the reply's length from the
 * first reply (the connection must fall quiet after it), then counts replies of that length, and
 * prints: requests errors seconds p50_us p99_us.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REQUEST = 4096, MAX_REPLY = 1 << 17, MAX_FD = 20000, ECHO_SIZE = 100 };
enum { BUCKETS = 20000, BUCKET_US = 5 };
#define PATIENCE_NS 20000000000u

static char request[MAX_REQUEST];
static size_t request_size;
static size_t reply_size;
static uint32_t latency[BUCKETS + 1];

typedef struct {
    size_t got;      /* bytes of the present message */
    uint64_t sent_at; /* ns */
} conn_t;
static conn_t conns[MAX_FD];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static size_t read_file(const char *path, char *into, size_t room) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    size_t size = fread(into, 1, room, file);
    fclose(file);
    return size;
}

static struct sockaddr_in address_of(const char *host, const char *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) fail(host);
    return a;
}

static void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* ---- the backend ------------------------------------------------------------------------- */

static char reply[MAX_REPLY];
static int echo;

static int answer(int fd) {
    static char in[65536];
    ssize_t n = read(fd, in, sizeof in);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    if (echo) {
        conns[fd].got += (size_t)n;
        while (conns[fd].got >= ECHO_SIZE) {
            conns[fd].got -= ECHO_SIZE;
            if (write(fd, reply, ECHO_SIZE) != ECHO_SIZE) return 0;
        }
        return 1;
    }
    /* Requests come whole on loopback; a blank line ends each. */
    for (char *at = in; (at = memmem(at, (size_t)(in + n - at), "\r\n\r\n", 4)); at += 4)
        if (write(fd, reply, reply_size) != (ssize_t)reply_size) return 0;
    return 1;
}

static _Noreturn void serve(const char *port, const char *path) {
    echo = strcmp(path, "echo") == 0;
    if (echo) memset(reply, 'x', ECHO_SIZE);
    else reply_size = read_file(path, reply, sizeof reply);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = address_of("127.0.0.1", port);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 4096)) fail("listen");
    int epoll = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                if (!answer(fd)) close(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                no_delay(fd);
                conns[fd].got = 0;
                e.data.fd = fd;
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
            }
        }
    }
}

/* ---- the load generator ------------------------------------------------------------------ */

static int send_request(int fd) {
    conns[fd].got = 0;
    conns[fd].sent_at = now_ns();
    return write(fd, request, request_size) == (ssize_t)request_size;
}

static int open_one(const struct sockaddr_in *to) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || fd >= MAX_FD) fail("socket");
    if (connect(fd, (const struct sockaddr *)to, sizeof *to)) {
        close(fd);
        return -1;
    }
    no_delay(fd);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void learn_reply(const struct sockaddr_in *to) {
    static char in[MAX_REPLY];
    int fd = open_one(to);
    if (fd < 0 || !send_request(fd)) fail("first request");
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, reply_size ? 300 : 5000) > 0) {
        ssize_t n = read(fd, in, sizeof in);
        if (n <= 0) break;
        if (!reply_size && !memcmp(in, "HTTP/", 5) && memcmp(in + 8, " 200 ", 5)) {
            fprintf(stderr, "not a 200: %.*s\n", (int)strcspn(in, "\r\n"), in);
            exit(1);
        }
        reply_size += (size_t)n;
    }
    close(fd);
    if (!reply_size) {
        fprintf(stderr, "no reply\n");
        exit(1);
    }
}

static double percentile_us(uint64_t total, double share) {
    uint64_t seen = 0, wanted = (uint64_t)((double)total * share);
    for (int i = 0; i <= BUCKETS; i++)
        if ((seen += latency[i]) > wanted) return (i + 0.5) * BUCKET_US;
    return 0;
}

static int ask(char **arg) {
    struct sockaddr_in to = address_of(arg[0], arg[1]);
    request_size = read_file(arg[2], request, sizeof request);
    int count = atoi(arg[3]), keep = strcmp(arg[5], "kept") == 0;
    uint64_t requests = 0, errors = 0;
    static char in[MAX_REPLY];
    learn_reply(&to);
    int epoll = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN}, events[256];
    uint64_t start = now_ns(), end = start + (uint64_t)(atof(arg[4]) * 1e9), now = start;
    int missing = count;
    /* On a busy machine a short run may be over before the first answer: wait for that. */
    while (now < end || (requests == 0 && now < end + PATIENCE_NS)) {
        for (; missing > 0; missing--) {
            int fd = open_one(&to);
            if (fd < 0) { errors++; break; }
            e.data.fd = fd;
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
            if (!send_request(fd)) { errors++; close(fd); break; }
        }
        int n = epoll_wait(epoll, events, 256, 100);
        now = now_ns();
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            ssize_t got = read(fd, in, sizeof in);
            if (got <= 0) { errors++; close(fd); missing++; continue; }
            if ((conns[fd].got += (size_t)got) < reply_size) continue;
            uint64_t us = (now - conns[fd].sent_at) / 1000 / BUCKET_US;
            latency[us < BUCKETS ? us : BUCKETS]++;
            requests++;
            if (!keep) { close(fd); missing++; }
            else if (!send_request(fd)) { errors++; close(fd); missing++; }
        }
    }
    printf("%llu %llu %.6f %.1f %.1f\n", (unsigned long long)requests, (unsigned long long)errors,
           (double)(now - start) / 1e9, percentile_us(requests, 0.5),
           percentile_us(requests, 0.99));
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "serve") == 0) serve(argv[2], argv[3]);
    if (argc == 8 && strcmp(argv[1], "ask") == 0) return ask(argv + 2);
    fprintf(stderr, "usage: see the head of load.c\n");
    return 2;
}
