/* The wire at the far end of interfaces: frames into them as fast as they come out again.
 *
 *   wire MAC FRAMES_MAX INTERFACE...    then, by lines of standard input:
 *   frames FILE                         what to send, in turn: frames of 60 bytes, each in 64
 *   sink on|off                         whether what comes out of the interfaces ends here
 *   run INDEX SECONDS LIMIT             into that interface, LIMIT frames at most (0: no limit)
 *
 * Two BPF programs in the kernel, as no socket is as fast as what is measured. The first makes
 * frames: BPF_PROG_TEST_RUN lets it have buffer after buffer, and it writes the next frame there
 * and sends it, but only while fewer than WINDOW are under way, so that the other side is always
 * busy and nothing is lost. The second ends what comes back and counts what has been forwarded: to
 * a MAC address that begins as MAC says, one hop further.
 *
 * `run` answers: frames forwarded, others that came back, sent, lost on the way; seconds.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { FRAME = 60, SLOT = 64, INTERFACES_MAX = 32, TTL_AT = 22, TTL_AFTER = 63 };
enum { WINDOW = 192 };          /* a veth's ring has 256 places */
enum { PUBLISH = 32 };          /* frames that the sink counts before it says so; a power of two */
enum { STALLED = 200000 };      /* vain attempts, some 10 ms, after which frames are lost */
enum { TICK_US = 1000 };        /* how often a run looks at the clock */
enum { SETTLE = 1000 };         /* so often it looks, too, whether all that is under way has come */
enum { LATE_NS = 100000000 };   /* after so long nothing comes any more */
#define PATIENCE_NS 10000000000u        /* for the first one, on a machine with much else to do */

/* Shared by both programs and this one; a cache line or more to each who writes. */
struct state {
	uint64_t sent, limit, n_frames, lost, stalls, interface, first_ns, first_pad[9];
	uint64_t seen, second_pad[15];                  /* said by the sink now and then */
	uint64_t forwarded, others;                     /* the sink's own */
};

static int state_map, frames_map, generator, sink;
static volatile struct state *state;
static uint8_t *frames;
static size_t n_frames_max;
static int links[INTERFACES_MAX], n_links;

static void fail(const char *what)
{
	fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int bpf(int command, union bpf_attr *attr, const char *what)
{
	int result = (int)syscall(SYS_bpf, command, attr, sizeof(*attr));

	if (result < 0 && errno != EINTR)
		fail(what);
	return result;
}

/* ---- the programs ---- */

#define ARRAY(value, n) \
	{ .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = (value), \
	  .max_entries = (n), .map_flags = BPF_F_MMAPABLE }
#define OP(op, d, s, o, i) \
	((struct bpf_insn){ .code = (op), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) })
#define SET(d, i)          OP(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define COPY(d, s)         OP(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define ALU(op, d, s)      OP(BPF_ALU64 | (op) | BPF_X, d, s, 0, 0)
#define ALU_K(op, d, i)    OP(BPF_ALU64 | (op) | BPF_K, d, 0, 0, i)
#define LOAD(size, d, s, o)  OP(BPF_LDX | BPF_MEM | (size), d, s, o, 0)
#define STORE(size, d, o, s) OP(BPF_STX | BPF_MEM | (size), d, s, o, 0)
#define ZERO(d, o)         OP(BPF_ST | BPF_MEM | BPF_DW, d, 0, o, 0)
#define IF(op, d, s, skip)   OP(BPF_JMP | (op) | BPF_X, d, s, skip, 0)
#define IF_K(op, d, i, skip) OP(BPF_JMP | (op) | BPF_K, d, 0, skip, i)
#define IF32_K(op, d, i, skip) OP(BPF_JMP32 | (op) | BPF_K, d, 0, skip, i)
#define CALL(f)            OP(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define EXIT               OP(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define GO(skip)           OP(BPF_JMP | BPF_JA, 0, 0, skip, 0)
#define MAP(d, kind, fd)   OP(BPF_LD | BPF_DW | BPF_IMM, d, kind, 0, fd), OP(0, 0, 0, 0, 0)
#define THE_STATE(d)       MAP(d, BPF_PSEUDO_MAP_VALUE, state_map)
#define OF(field)          ((short)offsetof(struct state, field))
#define WORD(at)           LOAD(BPF_DW, R1, R0, at), STORE(BPF_DW, R6, at, R1)
/* A place to go to: MARK is an instruction that does nothing, TO stands for the way there. */
#define TO(label)          (0x7000 + (label))
#define MARK(label)        OP(BPF_JMP | BPF_JA, 0, 0, 0, label)

enum { DROP = 1, SEND, OTHER };
enum { R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, STACK };

static void find_ways(struct bpf_insn *code, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; code[i].off >= TO(0) && j < n; j++)
			if (code[j].code == (BPF_JMP | BPF_JA) && TO(code[j].imm) == code[i].off)
				code[i].off = (short)(j - i - 1);
	for (size_t i = 0; i < n; i++)
		if (code[i].code == (BPF_JMP | BPF_JA))
			code[i].imm = 0;
}

static int loaded(struct bpf_insn *code, size_t n, const char *name)
{
	static char log[1 << 16];
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_XDP, .insns = (uintptr_t)code, .insn_cnt = (uint32_t)n,
		.license = (uintptr_t)"", .log_buf = (uintptr_t)log, .log_size = sizeof(log),
		.log_level = 1,
	};
	int fd;

	find_ways(code, n);
	fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));

	if (fd < 0) {
		fprintf(stderr, "%s\n", log);
		fail(name);
	}
	return fd;
}

static int load_generator(void)
{
	struct bpf_insn code[] = {
		LOAD(BPF_W, R6, R1, 0),                 /* R6, R7: the buffer */
		LOAD(BPF_W, R7, R1, 4),
		THE_STATE(R9),
		LOAD(BPF_DW, R8, R9, OF(sent)),
		LOAD(BPF_DW, R2, R9, OF(limit)),
		IF(BPF_JGE, R8, R2, TO(DROP)),
		/* Under way is what was sent and neither came back nor was lost. */
		COPY(R4, R8),
		LOAD(BPF_DW, R3, R9, OF(seen)),
		ALU(BPF_SUB, R4, R3),
		LOAD(BPF_DW, R3, R9, OF(lost)),
		ALU(BPF_SUB, R4, R3),
		IF_K(BPF_JSLT, R4, WINDOW, TO(SEND)),
		LOAD(BPF_DW, R5, R9, OF(stalls)),
		ALU_K(BPF_ADD, R5, 1),
		STORE(BPF_DW, R9, OF(stalls), R5),
		IF_K(BPF_JLT, R5, STALLED, TO(DROP)),
		ALU(BPF_ADD, R3, R4),
		STORE(BPF_DW, R9, OF(lost), R3),
		ZERO(R9, OF(stalls)),
		GO(TO(DROP)),
		MARK(SEND),
		ZERO(R9, OF(stalls)),
		IF_K(BPF_JNE, R8, 0, 2),
		CALL(BPF_FUNC_ktime_get_ns),
		STORE(BPF_DW, R9, OF(first_ns), R0),
		COPY(R1, R8),
		LOAD(BPF_DW, R2, R9, OF(n_frames)),
		ALU(BPF_MOD, R1, R2),
		STORE(BPF_W, STACK, -4, R1),
		COPY(R2, STACK),
		ALU_K(BPF_ADD, R2, -4),
		MAP(R1, BPF_PSEUDO_MAP_FD, frames_map),
		CALL(BPF_FUNC_map_lookup_elem),
		IF_K(BPF_JEQ, R0, 0, TO(DROP)),
		COPY(R1, R6),
		ALU_K(BPF_ADD, R1, FRAME),
		IF(BPF_JGT, R1, R7, TO(DROP)),
		WORD(0), WORD(8), WORD(16), WORD(24), WORD(32), WORD(40), WORD(48),
		LOAD(BPF_W, R1, R0, 56),
		STORE(BPF_W, R6, 56, R1),
		ALU_K(BPF_ADD, R8, 1),
		STORE(BPF_DW, R9, OF(sent), R8),
		LOAD(BPF_DW, R1, R9, OF(interface)),
		SET(R2, 0),
		CALL(BPF_FUNC_redirect),
		EXIT,
		MARK(DROP),
		SET(R0, XDP_DROP),
		EXIT,
	};
	return loaded(code, sizeof(code) / sizeof(*code), "the program that makes frames");
}

static int load_sink(uint32_t mac)
{
	struct bpf_insn code[] = {
		LOAD(BPF_W, R6, R1, 0),
		LOAD(BPF_W, R7, R1, 4),
		THE_STATE(R9),
		COPY(R1, R6),
		ALU_K(BPF_ADD, R1, 34),
		IF(BPF_JGT, R1, R7, TO(OTHER)),
		LOAD(BPF_W, R1, R6, 0),
		IF32_K(BPF_JNE, R1, (int)mac, TO(OTHER)),
		LOAD(BPF_B, R1, R6, TTL_AT),
		IF_K(BPF_JNE, R1, TTL_AFTER, TO(OTHER)),
		LOAD(BPF_DW, R8, R9, OF(forwarded)),
		ALU_K(BPF_ADD, R8, 1),
		STORE(BPF_DW, R9, OF(forwarded), R8),
		COPY(R1, R8),
		ALU_K(BPF_AND, R1, PUBLISH - 1),
		IF_K(BPF_JNE, R1, 0, TO(DROP)),
		STORE(BPF_DW, R9, OF(seen), R8),
		GO(TO(DROP)),
		MARK(OTHER),
		LOAD(BPF_DW, R1, R9, OF(others)),
		ALU_K(BPF_ADD, R1, 1),
		STORE(BPF_DW, R9, OF(others), R1),
		MARK(DROP),
		SET(R0, XDP_DROP),
		EXIT,
	};
	return loaded(code, sizeof(code) / sizeof(*code), "the program that counts");
}

/* ---- what is asked ---- */

static void *map_of(int *fd, uint32_t value, uint32_t n)
{
	union bpf_attr attr = ARRAY(value, n);
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t size = ((size_t)n * ((value + 7) & ~7u) + page - 1) & ~(page - 1);
	void *at;

	*fd = bpf(BPF_MAP_CREATE, &attr, "making a map (run as root)");
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (at == MAP_FAILED)
		fail("mapping a map");
	return at;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void take_frames(const char *path)
{
	FILE *file = fopen(path, "rb");
	size_t n;

	if (!file)
		fail(path);
	n = fread(frames, SLOT, n_frames_max, file);
	fclose(file);
	state->n_frames = n;
	printf("frames %zu\n", n);
}

static void set_sink(int on, char **names, int n)
{
	while (n_links > 0)
		close(links[--n_links]);
	for (int i = 0; on && i < n; i++) {
		union bpf_attr attr = { .link_create = {
			.prog_fd = (uint32_t)sink, .target_ifindex = if_nametoindex(names[i]),
			.attach_type = BPF_XDP,
		} };
		links[n_links++] = bpf(BPF_LINK_CREATE, &attr, names[i]);
	}
	printf("sink\n");
}

static void on_signal(int signal) { (void)signal; }

struct watch {
	pthread_t watched;
	double seconds;
	atomic_int over;                        /* the run, by both of them */
	uint64_t end_ns;
};

/* End a run when its time is up or all has come: to be interrupted is what ends it. */
static void *watch(void *what)
{
	struct watch *self = what;
	uint64_t length = (uint64_t)(self->seconds * 1e9), came = 0;
	uint64_t start = now_ns(), when = start, now;

	do {
		usleep(TICK_US);
		now = now_ns();
		if (state->forwarded != came) {
			came = state->forwarded;
			when = now;
		}
	} while (came == 0 ? now - start < PATIENCE_NS
		 : now - state->first_ns < length
		   && (state->sent < state->limit || (came < state->sent && now - when < LATE_NS)));
	self->end_ns = state->sent < state->limit ? now : when;
	state->limit = 0;
	for (atomic_store(&self->over, 1); atomic_load(&self->over) == 1; usleep(TICK_US))
		pthread_kill(self->watched, SIGALRM);
	return NULL;
}

static void run(unsigned interface, double seconds, uint64_t limit)
{
	static uint8_t buffer[FRAME];
	struct watch with = { .watched = pthread_self(), .seconds = seconds };
	union bpf_attr attr = { .test = {
		.prog_fd = (uint32_t)generator, .data_in = (uintptr_t)buffer, .data_size_in = FRAME,
		.repeat = UINT32_MAX, .flags = BPF_F_TEST_XDP_LIVE_FRAMES,
	} };
	uint64_t n_frames = state->n_frames;
	pthread_t watcher;

	memset((void *)state, 0, sizeof(*state));
	state->n_frames = n_frames;
	state->interface = interface;
	state->limit = limit ? limit : UINT64_MAX;
	if (pthread_create(&watcher, NULL, watch, &with) != 0)
		fail("starting a thread");
	while (!atomic_load(&with.over))
		bpf(BPF_PROG_TEST_RUN, &attr, "sending frames (it takes Linux 5.18)");
	atomic_store(&with.over, 2);
	pthread_join(watcher, NULL);
	for (int i = 0; i < SETTLE && state->forwarded < state->sent; i++)
		usleep(TICK_US);
	printf("done %lu %lu %lu %lu %f\n", (unsigned long)state->forwarded,
	       (unsigned long)state->others, (unsigned long)state->sent,
	       (unsigned long)state->lost, (double)(with.end_ns - state->first_ns) / 1e9);
}

int main(int n, char **words)
{
	struct sigaction action = { .sa_handler = on_signal };
	char line[4096], path[4000];
	unsigned mac, interface;
	unsigned long limit;
	double seconds;

	if (n < 4 || n - 3 > INTERFACES_MAX || sscanf(words[1], "%x", &mac) != 1)
		return 2;
	n_frames_max = strtoul(words[2], NULL, 10);
	state = map_of(&state_map, sizeof(struct state), 1);
	frames = map_of(&frames_map, SLOT, (uint32_t)n_frames_max);
	generator = load_generator();
	sink = load_sink(__builtin_bswap32(mac));
	sigaction(SIGALRM, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("ready\n");
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "frames %3999s", path) == 1) {
			take_frames(path);
		} else if (sscanf(line, "run %u %lf %lu", &interface, &seconds, &limit) == 3) {
			run(interface, seconds, limit);
		} else if (strncmp(line, "sink ", 5) == 0) {
			set_sink(strcmp(line + 5, "on\n") == 0, words + 3, n - 3);
		} else {
			return 2;
		}
	}
	return 0;
}
