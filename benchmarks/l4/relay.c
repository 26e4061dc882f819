/* The least that a TCP relay in user space can do: edge-triggered epoll, accept, connect, read into
 * the one buffer, write. No timeouts, limits, counters, health or retries: the floor that a proxy
 * is compared with, not a proxy.
 *
 *   relay ADDRESS BACKEND[,BACKEND...] PORT=BACKEND_PORT...     the backends take turns
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 16384, MAX_FD = 20000, MAX_BACKENDS = 16, EVENTS = 256 };

typedef struct {             /* one socket of ours, by descriptor */
    int other;               /* what it is relayed to; 0: a listener */
    int over;                /* it sends no more */
    char *kept;              /* read from it, and not yet taken by `other`; NULL: nothing */
    size_t start, end;       /* of `kept` */
    in_port_t backend_port;  /* of a listener */
} side_t;

static side_t sides[MAX_FD];
static struct in_addr backends[MAX_BACKENDS];
static int n_backends, next_backend, epoll_fd;
static char buffer[BUFFER];

static _Noreturn void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, uint32_t events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e)) fail("epoll_ctl");
}

static void end_one(int fd) {
    free(sides[fd].kept);
    memset(&sides[fd], 0, sizeof sides[fd]);
    close(fd);
}

static void end_both(int fd) {
    int other = sides[fd].other;
    end_one(fd);
    end_one(other);
}

/* Write what was kept; whether nothing is left. */
static int flush(side_t *from) {
    ssize_t n = send(from->other, from->kept + from->start, from->end - from->start, MSG_NOSIGNAL);
    if (n > 0) from->start += (size_t)n;
    if (from->start < from->end) return 0;
    free(from->kept);
    from->kept = NULL;
    return 1;
}

/* Write what is in the buffer and keep what is not taken; whether all was taken. */
static int pass_on(side_t *from, size_t size) {
    ssize_t n = send(from->other, buffer, size, MSG_NOSIGNAL);
    if (n == (ssize_t)size) return 1;
    from->start = 0;
    from->end = size - (size_t)(n > 0 ? n : 0);
    from->kept = malloc(from->end);
    if (!from->kept) fail("malloc");
    memcpy(from->kept, buffer + size - from->end, from->end);
    return 0;
}

/* Relay what one side has sent. A short read is the last one, unless its end has come, too. */
static void pump(int fd, uint32_t events) {
    side_t *from = &sides[fd];
    if (!from->other || from->over || (from->kept && !flush(from))) return;
    for (;;) {
        ssize_t n = read(fd, buffer, sizeof buffer);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) {
            end_both(fd);
            return;
        }
        if (n == 0) break;
        if (!pass_on(from, (size_t)n)) return;
        if (n < BUFFER && !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))) return;
    }
    from->over = 1;
    if (sides[from->other].over) end_both(fd);
    else shutdown(from->other, SHUT_WR);
}

static void join(int fd, in_port_t port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = port,
                             .sin_addr = backends[next_backend++ % n_backends]};
    int other = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    if (other < 0 || other >= MAX_FD || fd >= MAX_FD) fail("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(other, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(other, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) {
        close(fd);
        close(other);
        return;
    }
    sides[fd].other = other;
    sides[other].other = fd;
    watch(other, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

static void listen_on(const char *address, const char *ports) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((in_port_t)atoi(ports))};
    const char *backend_port = strchr(ports, '=');
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    if (!backend_port || inet_pton(AF_INET, address, &a.sin_addr) != 1) fail("usage");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) fail("listen");
    sides[fd].backend_port = htons((in_port_t)atoi(backend_port + 1));
    watch(fd, EPOLLIN);
}

static void event(int fd, uint32_t events) {
    in_port_t port = sides[fd].backend_port;
    int other = sides[fd].other, accepted;
    if (port) {
        while ((accepted = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) join(accepted, port);
        return;
    }
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) pump(fd, events);
    /* It takes bytes again: what was kept, and what nobody has read since then. */
    if (events & EPOLLOUT && other && sides[other].kept) pump(other, EPOLLRDHUP);
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    if (argc < 4) {
        fprintf(stderr, "usage: see the head of relay.c\n");
        return 2;
    }
    epoll_fd = epoll_create1(0);
    for (char *one = strtok(argv[2], ","); one && n_backends < MAX_BACKENDS;)
        if (inet_pton(AF_INET, one, &backends[n_backends++]) != 1) fail(one);
        else one = strtok(NULL, ",");
    for (int i = 3; i < argc; i++) listen_on(argv[1], argv[i]);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) event(events[i].data.fd, events[i].events);
    }
}
