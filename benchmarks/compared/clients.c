/* The clients, for one workload at a time:
 *
 * request  one request in flight on each kept connection
 * connect  each connection: connect, one request, its answer, close; then the next one
 * latency  requests at random times (the same for every proxy), RATE a second on the whole, on
 *          kept connections in turn; the time counts from when a request was due, not from when
 *          it could be sent: a proxy that stalls does not slow down what asks it
 * bulk     takes what the endless streams send, and looks at nothing of it
 * udp      WINDOW datagrams in flight from each client; what is lost is sent again after a while
 * udp-gso  the same, sent together (UDP_SEGMENT), as QUIC and media servers do
 *
 * With an HTTP request in a file, the first three send that; how long an answer is, the first one
 * tells, and the others are counted by it. Every client has an address of its own: 127.1.0.0/16.
 */
#include "ends.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_CLIENTS = 4096, MAX_SAMPLES = 1 << 22, TAKE = 1 << 20, MAX_REQUEST = 4096 };
#define PATIENCE_NS 300000000u      /* for datagrams */
#define STUCK_NS 10000000000u       /* nothing that a stream carries is lost, it is only late */
#define LOST_NS 100000000u
#define AGAIN_NS 20000000u  /* between looks for what is lost */

typedef enum { REQUEST, CONNECT, LATENCY, BULK, UDP, UDP_GSO } kind_t;
static const char *const KINDS[] = {"request", "connect", "latency", "bulk", "udp", "udp-gso"};

static struct {
    kind_t kind;
    struct sockaddr_in to;
    int fds[MAX_CLIENTS];    /* -1: to be opened */
    int n, missing;
    double rate;             /* requests a second */
    uint32_t window;
    int is_http;
    size_t request_size;     /* bytes */
    size_t answer_size;      /* bytes; 0: not known yet */
    int running;
    uint64_t taken;          /* bytes of the streams, since they were opened */
    double due;              /* ns: the next request */
    uint64_t random;
    uint64_t next;           /* client */
    uint64_t looked;         /* ns: for what is lost */
} plan;

static struct {
    uint64_t units, errors;  /* answers, connections or bytes; what went wrong or was lost */
    uint64_t in_flight;      /* requests without an answer */
    uint64_t began, last;    /* ns */
    uint32_t n;              /* of samples */
} seen;

static uint32_t samples[MAX_SAMPLES]; /* ns */
static char data[DEPTH * DATAGRAM + MAX_REQUEST]; /* what is sent: zeros, or the request */

static struct sockaddr_in address_of(const char *host, const char *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) fail(host);
    return a;
}

static void source_address(int fd, int index) {
    int one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_addr.s_addr = htonl(0x7f010001u + (uint32_t)index % 65000)};
    setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a)) fail("bind");
}

static int open_client(int index) {
    int udp = plan.kind >= UDP, size = DATAGRAM;
    int fd = socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
    if (fd < 0) fail("socket");
    source_address(fd, index);
    if (connect(fd, (struct sockaddr *)&plan.to, sizeof plan.to)) {
        close(fd);
        return -1;
    }
    if (udp) big_buffers(fd);
    else no_delay(fd);
    if (plan.kind == UDP_GSO && setsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, sizeof size))
        fail("UDP_SEGMENT");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    watch(fd, udp ? UDP_CLIENT : plan.kind == BULK ? SINK : CLIENT, EPOLLIN);
    ends[fd].index = (uint32_t)index;
    return fd;
}

static void lose(int fd) {
    seen.errors++;
    seen.in_flight -= ends[fd].in_flight;
    plan.fds[ends[fd].index] = -1;
    plan.missing++;
    drop(fd);
}

static void ask(int fd, uint64_t due) {
    end_t *end = &ends[fd];
    end->due[(end->first + end->in_flight++) % DEPTH] = due;
    seen.in_flight++;
    if (write(fd, data, plan.request_size) != (ssize_t)plan.request_size) lose(fd);
}

static void send_datagrams(int fd, uint32_t n) {
    struct iovec part = {data, DATAGRAM};
    struct mmsghdr out[DEPTH] = {0};
    ends[fd].in_flight += n;
    seen.in_flight += n;
    if (plan.kind == UDP_GSO) {
        if (send(fd, data, (size_t)n * DATAGRAM, 0) < 0) seen.errors++;
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        out[i].msg_hdr = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    if (sendmmsg(fd, out, n, 0) != (int)n) seen.errors++;
}

static void start_client(int fd, uint64_t now) {
    if (plan.kind == REQUEST || plan.kind == CONNECT) {
        ask(fd, now);
    } else if (plan.kind >= UDP) {
        ends[fd].heard = now;
        ends[fd].in_flight = 0;
        send_datagrams(fd, plan.window);
    }
}

static void open_missing(uint64_t now) {
    for (int i = 0; i < plan.n && plan.missing; i++) {
        if (plan.fds[i] >= 0) continue;
        plan.fds[i] = open_client(i);
        if (plan.fds[i] < 0) {
            seen.errors++;
            return;
        }
        plan.missing--;
        if (plan.running) start_client(plan.fds[i], now);
    }
}

/* What is to be sent, from a file or 100 zeros. */
static void read_request(const char *path) {
    memset(data, 0, sizeof data);
    plan.request_size = plan.answer_size = MESSAGE;
    if (!path) return;
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    plan.is_http = 1;
    plan.request_size = fread(data, 1, MAX_REQUEST, file);
    plan.answer_size = 0;
    fclose(file);
}

int clients_open(char **words, int n) {
    if (n != 5 && n != 6) return 0;
    memset(&plan, 0, sizeof plan);
    read_request(n == 6 ? words[5] : NULL);
    for (plan.kind = REQUEST; strcmp(words[0], KINDS[plan.kind]); plan.kind++)
        if (plan.kind == UDP_GSO) return 0;
    plan.to = address_of(words[1], words[2]);
    plan.n = plan.missing = atoi(words[3]);
    plan.rate = atof(words[4]);
    plan.window = (uint32_t)plan.rate;
    plan.random = 88172645463325252u;
    if (plan.n < 1 || plan.n > MAX_CLIENTS || plan.rate <= 0) return 0;
    if (plan.kind >= UDP && plan.window > DEPTH) return 0;
    if (plan.kind > LATENCY && plan.is_http) return 0;
    backends_begin(plan.kind == UDP_GSO);
    for (int i = 0; i < plan.n; i++) plan.fds[i] = -1;
    return 1;
}

void clients_go(void) {
    memset(&seen, 0, sizeof seen);
    seen.began = seen.last = now_ns();
    if (plan.kind != CONNECT) open_missing(seen.began);
    plan.running = backends.flowing = 1;
    plan.due = (double)seen.began;
    for (int i = 0; i < plan.n; i++)
        if (plan.fds[i] >= 0) start_client(plan.fds[i], seen.began);
}

/* The time between two requests that know nothing of each other: exponential. */
static double gap_ns(void) {
    plan.random ^= plan.random << 13;
    plan.random ^= plan.random >> 7;
    plan.random ^= plan.random << 17;
    return -log((double)((plan.random >> 11) + 1) / 9007199254740993.0) / plan.rate * 1e9;
}

static void ask_what_is_due(uint64_t now) {
    while (plan.due <= (double)now) {
        int fd = plan.fds[plan.next % (uint64_t)plan.n];
        if (fd < 0 || ends[fd].in_flight == DEPTH) return; /* late, and the time counts */
        ask(fd, (uint64_t)plan.due);
        plan.due += gap_ns();
        plan.next++;
    }
}

static void replace_what_is_lost(uint64_t now) {
    if (now < plan.looked + AGAIN_NS) return;
    plan.looked = now;
    for (int i = 0; i < plan.n; i++) {
        end_t *end = &ends[plan.fds[i]];
        if (end->in_flight == 0 || now < end->heard + LOST_NS) continue;
        seen.errors += end->in_flight;
        seen.in_flight -= end->in_flight;
        start_client(plan.fds[i], now);
    }
}

void clients_tick(uint64_t now) {
    if (plan.missing) open_missing(now);
    if (plan.kind == LATENCY) ask_what_is_due(now);
    if (plan.kind >= UDP) replace_what_is_lost(now);
}

static void count(uint64_t units, uint64_t now, uint64_t due) {
    uint64_t took = now - due;
    seen.units += units;
    seen.last = now;
    if (seen.n == MAX_SAMPLES) return;
    samples[seen.n++] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
}

/* Of an answer's first bytes: they are good, and tell its size. */
static void read_answer_head(char *in, ssize_t n) {
    in[n] = 0;
    char *end = strstr(in, "\r\n\r\n"), *length = strcasestr(in, "\r\nContent-Length:");
    if (n < 16 || memcmp(in + 8, " 200 ", 5) || !end || !length || length > end) {
        fprintf(stderr, "not an answer that can be counted: %.*s\n", (int)strcspn(in, "\r\n"), in);
        exit(1);
    }
    plan.answer_size = (size_t)(end + 4 - in) + (size_t)atol(length + 17);
}

/* Read from an answer; what is sure to be in its body is thrown away unseen. */
static ssize_t take(int fd) {
    char in[DEPTH * MESSAGE + 1];
    if (plan.is_http && ends[fd].got && plan.answer_size > 2 * sizeof in)
        return recv(fd, NULL, TAKE, MSG_TRUNC);
    ssize_t n = read(fd, in, sizeof in - 1);
    if (n > 0 && plan.is_http && ends[fd].got == 0 && (!plan.answer_size || n < 16
                                                       || memcmp(in + 8, " 200 ", 5)))
        read_answer_head(in, n);
    return n;
}

static void take_answers(int fd) {
    end_t *end = &ends[fd];
    ssize_t n = take(fd);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        lose(fd);
        return;
    }
    uint64_t now = now_ns();
    for (end->got += (uint32_t)n; end->in_flight && end->got >= plan.answer_size;
         end->got -= (uint32_t)plan.answer_size) {
        count(1, now, end->due[end->first]);
        end->first = (end->first + 1) % DEPTH;
        end->in_flight--;
        seen.in_flight--;
    }
    if (end->in_flight && plan.kind != LATENCY) return; /* more of it is to come */
    if (plan.kind == CONNECT) {
        plan.fds[end->index] = -1;
        plan.missing++;
        drop(fd);
    } else if (plan.kind == REQUEST && plan.running) {
        ask(fd, now);
    }
}

static void take_stream(int fd) {
    ssize_t n = recv(fd, NULL, TAKE, MSG_TRUNC);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) lose(fd);
        return;
    }
    plan.taken += (uint64_t)n;
    seen.units += (uint64_t)n;
    seen.last = now_ns();
}

static void take_datagrams(int fd) {
    static char in[BATCH][2048];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH] = {0};
    end_t *end = &ends[fd];
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){in[i], sizeof in[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    int n = recvmmsg(fd, messages, BATCH, 0, NULL);
    if (n <= 0) {
        if (errno != EAGAIN) seen.errors++;
        return;
    }
    uint32_t expected = (uint32_t)n < end->in_flight ? (uint32_t)n : end->in_flight;
    end->in_flight -= expected;
    seen.in_flight -= expected;
    end->heard = seen.last = now_ns();
    seen.units += (uint64_t)n;
    if (plan.running) send_datagrams(fd, plan.window - end->in_flight);
}

void clients_event(int fd) {
    switch (ends[fd].role) {
    case SINK: take_stream(fd); break;
    case UDP_CLIENT: take_datagrams(fd); break;
    default: take_answers(fd);
    }
}

void clients_stop(void) {
    plan.running = backends.flowing = 0;
}

int clients_quiet(uint64_t now) {
    if (now > seen.last + (plan.kind >= UDP ? PATIENCE_NS : STUCK_NS)) return 1;
    if (plan.kind == CONNECT && !plan.is_http) return seen.in_flight == 0 && backends.open == 0;
    if (plan.kind == BULK) return plan.taken == backends.streamed;
    return seen.in_flight == 0;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

void clients_report(void) {
    double p50 = 0, p99 = 0;
    qsort(samples, seen.n, sizeof samples[0], by_size);
    if (seen.n) {
        p50 = samples[seen.n / 2] / 1e3;
        p99 = samples[(uint32_t)((double)seen.n * 0.99)] / 1e3;
    }
    seen.errors += seen.in_flight;
    printf("done %llu %llu %.6f %.1f %.1f\n", (unsigned long long)seen.units,
           (unsigned long long)seen.errors, (double)(seen.last - seen.began) / 1e9, p50, p99);
}

void clients_close(void) {
    for (int i = 0; i < plan.n; i++)
        if (plan.fds[i] >= 0) drop(plan.fds[i]);
    plan.n = plan.missing = 0;
}
