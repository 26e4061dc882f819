/* The least that an HTTP relay in user space can do: edge-triggered epoll, one read and one write
 * for a request and the same for its answer, sockets to backends kept. It looks for the end of a
 * head, checks the host, adds one field, and counts an answer by its Content-Length. GET only; no
 * strictness, routes, timeouts, limits, counters, health or retries: the floor that a gateway is
 * compared with, not a gateway.
 *
 *   relay ADDRESS:PORT BACKEND_PORT HOST BACKEND[,BACKEND...]     the backends take turns
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

enum { BUFFER = 65536, HEAD_MAX = 8192, MAX_FD = 20000, MAX_BACKENDS = 16, EVENTS = 128 };

typedef enum { NONE, LISTENER, CLIENT, UPSTREAM } role_t;

typedef struct {
    char *bytes;
    size_t start, end;       /* what waits is bytes[start:end] */
} kept_t;

typedef struct {             /* one socket, by descriptor */
    role_t role;
    int other;               /* of an exchange under way; 0: none */
    int backend;             /* of an upstream: its index */
    int next;                /* of an idle upstream: the one below it in the pool; 0: none */
    int readable;            /* a client's next request may have come */
    char field[48];          /* of a client: the field that is added, and the head's end */
    size_t field_size;
    kept_t out;              /* to be written to this socket */
    kept_t head;             /* of a client's request: what has come of it */
    size_t left;             /* of the answer; 0: its head is to come */
} side_t;

static side_t sides[MAX_FD];
static struct sockaddr_in backends[MAX_BACKENDS];
static int pool[MAX_BACKENDS];       /* the last used idle upstream of each; 0: none */
static int n_backends, next_backend, epoll_fd;
static const char *host;
static size_t host_size;
static char buffer[BUFFER + sizeof sides[0].field];

static _Noreturn void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, uint32_t events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    int one = 1;
    if (fd < 0 || fd >= MAX_FD) fail("too many sockets");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e)) fail("epoll_ctl");
}

static void forget(kept_t *kept) {
    free(kept->bytes);
    memset(kept, 0, sizeof *kept);
}

static void keep(kept_t *kept, const char *data, size_t size) {
    kept->bytes = realloc(kept->bytes, kept->end + size);
    if (!kept->bytes) fail("realloc");
    memcpy(kept->bytes + kept->end, data, size);
    kept->end += size;
}

static void end(int fd) {
    forget(&sides[fd].out);
    forget(&sides[fd].head);
    memset(&sides[fd], 0, sizeof sides[fd]);
    close(fd);
}

static void end_both(int fd) {
    int other = sides[fd].other;
    end(fd);
    if (other) end(other);
}

/* Write, and keep what is not taken. */
static void put(int fd, const char *data, size_t size) {
    ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
    size_t taken = n > 0 ? (size_t)n : 0;
    if (taken < size) keep(&sides[fd].out, data + taken, size - taken);
}

/* Write what was kept; whether nothing is left. */
static int flush(int fd) {
    kept_t *out = &sides[fd].out;
    ssize_t n = send(fd, out->bytes + out->start, out->end - out->start, MSG_NOSIGNAL);
    if (n > 0) out->start += (size_t)n;
    if (out->start < out->end) return 0;
    forget(out);
    return 1;
}

/* A socket to the next backend: an idle one, or one that is being connected. */
static int upstream(void) {
    int index = next_backend++ % n_backends, fd = pool[index];
    if (fd) {
        pool[index] = sides[fd].next;
        return fd;
    }
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    connect(fd, (struct sockaddr *)&backends[index], sizeof backends[index]);
    sides[fd].role = UPSTREAM;
    sides[fd].backend = index;
    return fd;
}

static void park(int fd) {
    sides[fd].other = 0;
    sides[fd].next = pool[sides[fd].backend];
    pool[sides[fd].backend] = fd;
}

static void unpark(int fd) {
    int *at = &pool[sides[fd].backend];
    while (*at && *at != fd) at = &sides[*at].next;
    if (*at) *at = sides[fd].next;
}

/* The head is `size` bytes of the buffer; what comes after it is the next request's. */
static void pass_on(int fd, size_t size, size_t n) {
    side_t *client = &sides[fd];
    char *name = memmem(buffer, size, "\r\nHost: ", 8);
    if (!name || memcmp(name + 8, host, host_size) || name[8 + host_size] != '\r') {
        end(fd);
        return;
    }
    if (n > size) {
        keep(&client->head, buffer + size, n - size);
        client->readable = 1;
    }
    int to = upstream();
    client->other = to;
    sides[to].other = fd;
    memcpy(buffer + size - 2, client->field, client->field_size);
    put(to, buffer, size - 2 + client->field_size);
}

static void read_request(int fd) {
    side_t *client = &sides[fd];
    size_t had = client->head.end;
    if (had) memcpy(buffer, client->head.bytes, had);
    client->readable = 0;
    ssize_t n = read(fd, buffer + had, HEAD_MAX - had);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        end(fd);
        return;
    }
    size_t size = had + (size_t)(n > 0 ? n : 0);
    char *last = memmem(buffer, size, "\r\n\r\n", 4);
    if (had) forget(&client->head);
    if (last) pass_on(fd, (size_t)(last + 4 - buffer), size);
    else if (size) keep(&client->head, buffer, size);
}

/* How long the answer is that begins the buffer; 0: its head is not there, or not understood. */
static size_t answer_size(size_t n) {
    char *last = memmem(buffer, n, "\r\n\r\n", 4);
    size_t size = last ? (size_t)(last + 4 - buffer) : 0;
    char *length = memmem(buffer, size, "\r\nContent-Length: ", 18);
    return length ? size + strtoul(length + 18, NULL, 10) : 0;
}

static void read_answer(int fd) {
    side_t *from = &sides[fd];
    for (int client = from->other; client && !sides[client].out.bytes; client = from->other) {
        ssize_t n = read(fd, buffer, BUFFER);
        if (n < 0 && errno == EAGAIN) return;
        if (n > 0 && !from->left) from->left = answer_size((size_t)n);
        if (n <= 0 || from->left < (size_t)n) {
            end_both(fd);
            return;
        }
        put(client, buffer, (size_t)n);
        from->left -= (size_t)n;
        if (from->left == 0) {
            park(fd);
            sides[client].other = 0;
            if (sides[client].readable) read_request(client);
        }
        if (n < BUFFER) return;
    }
}

static void accept_all(int listener) {
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    int fd;
    while ((fd = accept4(listener, (struct sockaddr *)&from, &size, SOCK_NONBLOCK)) >= 0) {
        char text[INET_ADDRSTRLEN];
        watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
        sides[fd].role = CLIENT;
        inet_ntop(AF_INET, &from.sin_addr, text, sizeof text);
        sides[fd].field_size = (size_t)snprintf(sides[fd].field, sizeof sides[fd].field,
                                                "X-Forwarded-For: %s\r\n\r\n", text);
    }
}

static void event(int fd, uint32_t events) {
    side_t *side = &sides[fd];
    if (side->role == LISTENER) {
        accept_all(fd);
    } else if (side->role == CLIENT) {
        if (events & EPOLLOUT && side->out.bytes && flush(fd) && side->other)
            read_answer(side->other);
        if (!(events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))) return;
        if (!side->other) read_request(fd);
        else if (events & (EPOLLHUP | EPOLLERR)) end_both(fd);
        else side->readable = 1;
    } else if (side->role == UPSTREAM) {
        if (events & EPOLLOUT && side->out.bytes && !flush(fd)) return;
        if (events & EPOLLIN && side->other) {
            read_answer(fd);
        } else if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
            unpark(fd);
            end_both(fd);
        }
    }
}

static void listen_on(char *text) {
    char *port = strchr(text, ':');
    struct sockaddr_in a = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    if (!port) fail("usage");
    *port++ = 0;
    a.sin_port = htons((in_port_t)atoi(port));
    if (inet_pton(AF_INET, text, &a.sin_addr) != 1) fail(text);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) fail("listen");
    watch(fd, EPOLLIN);
    sides[fd].role = LISTENER;
}

int main(int argc, char **argv) {
    struct epoll_event events[EVENTS];
    if (argc != 5) {
        fprintf(stderr, "usage: see the head of relay.c\n");
        return 2;
    }
    epoll_fd = epoll_create1(0);
    host = argv[3];
    host_size = strlen(host);
    for (char *one = strtok(argv[4], ","); one; one = strtok(NULL, ",")) {
        struct sockaddr_in *to = &backends[n_backends++];
        to->sin_family = AF_INET;
        to->sin_port = htons((in_port_t)atoi(argv[2]));
        if (n_backends > MAX_BACKENDS || inet_pton(AF_INET, one, &to->sin_addr) != 1) fail(one);
    }
    listen_on(argv[1]);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) event(events[i].data.fd, events[i].events);
    }
}
