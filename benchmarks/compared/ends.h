/* What load.c, clients.c and backends.c share: every socket's role, one epoll, one clock. */
#ifndef ENDS_H
#define ENDS_H

#define _GNU_SOURCE
#include <stdint.h>
#include <sys/types.h>

enum {
    MESSAGE = 100,   /* bytes of a request over TCP, and of its answer */
    DATAGRAM = 200,  /* bytes of a request over UDP, and of its answer */
    BATCH = 16,      /* events, and datagrams, that are taken at once */
    DEPTH = 64,      /* requests in flight on one connection at most */
    MAX_FD = 20000,
};

typedef enum {
    UNUSED, COMMANDS,
    ECHO_LISTENER, SOURCE_LISTENER, HTTP_LISTENER, ECHO, SOURCE, UDP_ECHO, HTTP, /* backends.c */
    CLIENT, SINK, UDP_CLIENT,                                                    /* clients.c */
} role_t;

typedef struct {
    role_t role;
    uint32_t index;          /* of a client: among the clients */
    uint32_t got;            /* bytes of the message that is coming in */
    uint32_t matched;        /* of a request's empty line: bytes that have come */
    uint32_t left;           /* bytes of a large answer that are still to be sent */
    int is_large;            /* the request that is coming in wants one */
    uint32_t in_flight;      /* requests without an answer */
    uint32_t first;          /* in `due` */
    uint64_t due[DEPTH];     /* ns: when each of them was to be sent, oldest at `first` */
    uint64_t heard;          /* ns: the last answer */
} end_t;

extern end_t ends[MAX_FD];   /* by descriptor */

_Noreturn void fail(const char *what);
uint64_t now_ns(void);
void watch(int fd, role_t role, uint32_t events);
void rewatch(int fd, uint32_t events);
void drop(int fd);           /* close it; events that are under way find it UNUSED */
void no_delay(int fd);
void big_buffers(int fd);    /* of a UDP socket, so that it loses nothing of what we count */

/* backends.c: echo of messages, an endless stream, echo of datagrams, HTTP */
typedef struct {
    uint64_t streamed;       /* bytes sent by the endless streams, of this workload */
    uint32_t open;           /* connections, but those of HTTP: proxies keep them */
    int flowing;             /* the streams send */
} backends_t;
extern backends_t backends;
void backends_listen(void);            /* and say where, on standard output */
void backends_begin(int segments);     /* whether datagrams to one client leave by UDP_SEGMENT */
void backends_event(int fd);

/* clients.c: one workload at a time */
int clients_open(char **words, int n); /* the words of `open`; 0: something is unknown */
void clients_go(void);
void clients_tick(uint64_t now);       /* send what is due */
void clients_event(int fd);
void clients_stop(void);               /* send nothing any more */
int clients_quiet(uint64_t now);       /* whether everything sent has come back, or is lost */
void clients_report(void);             /* on standard output, since clients_go */
void clients_close(void);

#endif
