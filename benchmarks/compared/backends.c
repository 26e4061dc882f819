/* The backends: each does the least work that its workload allows.
 *
 * The endless stream is sent by sendfile from memory, so that its pages are not copied: a proxy,
 * not this end, is what limits the throughput.
 */
#include "ends.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FILE_SIZE = 1 << 20, CHUNK = 1 << 18, READ_SIZE = 16384 };

backends_t backends;
static int stream_file, udp_socket;
static int together;  /* answers to one client leave by one call */
static const char SMALL[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n"
    "01234567890123456789012345678901234567890123456789"
    "01234567890123456789012345678901234567890123456789";
static const char LARGE_HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1048576\r\n\r\n";

/* A socket on every address and any port. A port that was free on one address only might not do:
 * connections that have just ended hold theirs. */
static int bound(int type, in_port_t *port) {
    int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t size = sizeof a;
    if (bind(fd, (struct sockaddr *)&a, size)) fail("bind");
    if (getsockname(fd, (struct sockaddr *)&a, &size)) fail("getsockname");
    *port = ntohs(a.sin_port);
    return fd;
}

static in_port_t listen_for(role_t role) {
    in_port_t port;
    int fd = bound(SOCK_STREAM, &port);
    if (listen(fd, 4096)) fail("listen");
    watch(fd, role, EPOLLIN);
    return port;
}

static in_port_t listen_for_datagrams(void) {
    in_port_t port;
    int one = 1;
    udp_socket = bound(SOCK_DGRAM, &port);
    big_buffers(udp_socket);
    setsockopt(udp_socket, SOL_IP, IP_PKTINFO, &one, sizeof one);
    watch(udp_socket, UDP_ECHO, EPOLLIN);
    return port;
}

void backends_listen(void) {
    stream_file = memfd_create("stream", 0);
    if (stream_file < 0 || ftruncate(stream_file, FILE_SIZE)) fail("memfd_create");
    char *bytes = mmap(NULL, FILE_SIZE, PROT_WRITE, MAP_SHARED, stream_file, 0);
    if (bytes == MAP_FAILED) fail("mmap");
    for (int i = 0; i < FILE_SIZE; i++) bytes[i] = (char)(i * 2654435761u >> 24);
    in_port_t echo_port = listen_for(ECHO_LISTENER), stream_port = listen_for(SOURCE_LISTENER);
    in_port_t udp_port = listen_for_datagrams(), http_port = listen_for(HTTP_LISTENER);
    printf("ports %d %d %d %d\n", echo_port, stream_port, udp_port, http_port);
}

void backends_begin(int segments) {
    int size = segments ? DATAGRAM : 0;
    together = segments;
    backends.streamed = 0;
    if (setsockopt(udp_socket, SOL_UDP, UDP_SEGMENT, &size, sizeof size)) fail("UDP_SEGMENT");
}

static void accept_all(int listener) {
    role_t at = ends[listener].role;
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        no_delay(fd);
        if (at == SOURCE_LISTENER) watch(fd, SOURCE, EPOLLOUT | EPOLLRDHUP);
        else watch(fd, at == ECHO_LISTENER ? ECHO : HTTP, EPOLLIN);
        backends.open += at != HTTP_LISTENER;
    }
}

static void hang_up(int fd) {
    drop(fd);
    backends.open--;
}

static void echo(int fd) {
    static char in[READ_SIZE], answer[READ_SIZE + MESSAGE];
    ssize_t n = read(fd, in, sizeof in);
    if (n < 0 && errno == EAGAIN) return;
    uint32_t got = ends[fd].got + (uint32_t)(n > 0 ? n : 0), whole = got - got % MESSAGE;
    ends[fd].got = got % MESSAGE;
    if (n <= 0 || (whole && write(fd, answer, whole) != (ssize_t)whole)) hang_up(fd);
}

static void stream(int fd) {
    char ignored;
    off_t from = ends[fd].got;
    ssize_t n = backends.flowing ? sendfile(fd, stream_file, &from, CHUNK)
                                 : recv(fd, &ignored, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        hang_up(fd);
        return;
    }
    if (n > 0 && backends.flowing) backends.streamed += (uint64_t)n;
    ends[fd].got = (uint32_t)(from % FILE_SIZE);
}

/* Send what is left of a large answer; 0: the connection is gone. */
static int send_large(int fd) {
    end_t *end = &ends[fd];
    off_t from = FILE_SIZE - end->left;
    ssize_t n = sendfile(fd, stream_file, &from, end->left);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    end->left -= (uint32_t)n;
    if (!end->left) rewatch(fd, EPOLLIN);
    return 1;
}

static int answer(int fd) {
    size_t size = sizeof LARGE_HEAD - 1;
    if (!ends[fd].is_large)
        return write(fd, SMALL, sizeof SMALL - 1) == (ssize_t)sizeof SMALL - 1;
    if (send(fd, LARGE_HEAD, size, MSG_MORE) != (ssize_t)size) return 0;
    ends[fd].left = FILE_SIZE;
    rewatch(fd, EPOLLIN | EPOLLOUT);
    return 1;
}

/* Look for the empty lines that end requests. The first bytes of one come together. */
static int read_requests(int fd) {
    static char in[READ_SIZE];
    static const char end_of_head[] = "\r\n\r\n";
    end_t *end = &ends[fd];
    ssize_t n = read(fd, in, sizeof in);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    for (ssize_t i = 0; i < n; i++) {
        if (end->got++ == 0) end->is_large = i + 6 < n && in[i + 5] == 'l';
        end->matched = in[i] == end_of_head[end->matched] ? end->matched + 1 : in[i] == '\r';
        if (end->matched < 4) continue;
        end->matched = end->got = 0;
        if (!answer(fd)) return 0;
    }
    return 1;
}

/* Send each back where it came from, from where it went to: what was received says both. */
static void echo_datagrams(int fd) {
    static char data[BATCH][2048], control[BATCH][64];
    struct sockaddr_in from[BATCH];
    struct iovec parts[BATCH];
    struct mmsghdr in[BATCH] = {0};
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){data[i], sizeof data[i]};
        in[i].msg_hdr = (struct msghdr){
            .msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &parts[i],
            .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i]};
    }
    int n = recvmmsg(fd, in, BATCH, 0, NULL);
    for (int i = 0; i < n; i++) parts[i].iov_len = in[i].msg_len;
    if (n > 0 && !together) sendmmsg(fd, in, (unsigned)n, 0);
    for (int i = 0, end; together && i < n; i = end) { /* those of one client by one call */
        for (end = i + 1; end < n && !memcmp(&from[i], &from[end], sizeof from[i]);) end++;
        in[i].msg_hdr.msg_iovlen = (size_t)(end - i);
        sendmsg(fd, &in[i].msg_hdr, 0);
    }
}

void backends_event(int fd) {
    switch (ends[fd].role) {
    case ECHO: echo(fd); break;
    case SOURCE: stream(fd); break;
    case UDP_ECHO: echo_datagrams(fd); break;
    case HTTP: if (!(ends[fd].left ? send_large(fd) : read_requests(fd))) drop(fd); break;
    default: accept_all(fd);
    }
}
