/*   load WARM_SECONDS
 *
 * Both ends of a comparison, clients and backends, in one thread that never sleeps while it
 * measures: so a proxy between them never pays for waking them up, nor do they for each other.
 *
 * It says "ports ECHO STREAM UDP HTTP", where its backends listen, on every address. Then commands
 * come on standard input, each is answered by one line:
 *   open KIND ADDRESS PORT CLIENTS RATE_OR_WINDOW [FILE]   -> "ready": connected, warm, quiet again
 *   run SECONDS       -> "done UNITS ERRORS SECONDS P50_US P99_US", quiet again
 *   close             -> "closed"
 * KIND is request, connect, latency (RATE requests a second, whatever comes back), bulk, udp or
 * udp-gso (WINDOW datagrams in flight a client); see clients.c. FILE has the HTTP request that the
 * first three send instead of 100 bytes.
 */
#include "ends.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SETTLE_NS 2000000u     /* the proxy's turn to sleep */
#define CLOSING_NS 1000000000u

end_t ends[MAX_FD];
static int epoll_fd;
static uint64_t warm_ns;       /* of use before a proxy is measured */

_Noreturn void fail(const char *what) {
    perror(what);
    exit(1);
}

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void watch(int fd, role_t role, uint32_t events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (fd >= MAX_FD) fail("too many sockets");
    memset(&ends[fd], 0, sizeof ends[fd]);
    ends[fd].role = role;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e)) fail("epoll_ctl");
}

void rewatch(int fd, uint32_t events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &e)) fail("epoll_ctl");
}

void drop(int fd) {
    ends[fd].role = UNUSED;
    close(fd);
}

void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

void big_buffers(int fd) {
    int size = 8 << 20;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

/* Handle what has happened. A command is left for the caller. */
static void turn(int timeout_ms, int *command) {
    struct epoll_event events[BATCH];
    int n = epoll_wait(epoll_fd, events, BATCH, timeout_ms);
    for (int i = 0; i < n; i++) {
        int fd = events[i].data.fd;
        role_t role = ends[fd].role;
        if (role == COMMANDS) *command = 1;
        else if (role >= CLIENT) clients_event(fd);
        else if (role != UNUSED) backends_event(fd);
    }
}

static void until_quiet(void) {
    int command;
    clients_stop();
    while (!clients_quiet(now_ns())) turn(0, &command);
    for (uint64_t end = now_ns() + SETTLE_NS; now_ns() < end;) turn(0, &command);
}

static void run(uint64_t duration_ns) {
    int command;
    clients_go();
    for (uint64_t now = now_ns(), end = now + duration_ns; now < end; now = now_ns()) {
        clients_tick(now);
        turn(0, &command);
    }
    until_quiet();
}

static void close_all(void) {
    int command;
    clients_close();
    for (uint64_t end = now_ns() + CLOSING_NS; backends.open && now_ns() < end;) turn(1, &command);
}

static void obey(char *line) {
    char *words[8];
    int n = 0;
    for (char *word = strtok(line, " \n"); word && n < 8; word = strtok(NULL, " \n"))
        words[n++] = word;
    if (n > 1 && strcmp(words[0], "open") == 0 && clients_open(words + 1, n - 1)) {
        run(warm_ns);
        puts("ready");
    } else if (n == 2 && strcmp(words[0], "run") == 0) {
        run((uint64_t)(atof(words[1]) * 1e9));
        clients_report();
    } else if (n == 1 && strcmp(words[0], "close") == 0) {
        close_all();
        puts("closed");
    } else {
        fprintf(stderr, "usage: see the head of load.c\n");
        exit(2);
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    char line[1024];
    warm_ns = argc > 1 ? (uint64_t)(atof(argv[1]) * 1e9) : 0;
    signal(SIGPIPE, SIG_IGN);
    epoll_fd = epoll_create1(0);
    backends_listen();
    fflush(stdout);
    watch(STDIN_FILENO, COMMANDS, EPOLLIN);
    for (;;) {
        int command = 0;
        turn(-1, &command);
        if (!command) continue;
        if (!fgets(line, sizeof line, stdin)) return 0;
        obey(line);
    }
}
