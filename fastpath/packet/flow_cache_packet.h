/* What the flow cache knows of packets: their headers, checksums, and which ones may be carried.
 *
 * The structures that maps hold are those of flow.pxd.
 */

#include <linux/bpf.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#define INLINE static inline __attribute__((always_inline))
#define NETWORK16(value) ((u16)__builtin_bswap16(value))    /* for -target bpfel */

enum { REWRITE_MAC, REWRITE_NAT, REWRITE_ENCAPSULATE };
enum { TCP = 6, UDP = 17, IPV4 = 4, IPV6 = 41 };            /* IP protocol numbers */
enum { FIN = 0x01, SYN = 0x02, RST = 0x04, ACK = 0x10 };
enum { HEADERS_MAX = 60 };                                  /* IPv6, TCP without options */
#define ETHER_IPV4 NETWORK16(0x0800)
#define ETHER_IPV6 NETWORK16(0x86dd)
#define DONT_FRAGMENT NETWORK16(0x4000)

struct ethernet {
	u8 destination[6];
	u8 source[6];
	u16 protocol;
};

struct ipv4 {
	u8 version_size;
	u8 tos;
	u16 length;
	u16 id;
	u16 fragment;
	u8 ttl;
	u8 protocol;
	u16 checksum;
	u32 source;
	u32 destination;
};

struct ipv6 {
	u32 class_and_label;
	u16 length;
	u8 next;
	u8 hops;
	u32 source[4];
	u32 destination[4];
};

struct tcp {
	u16 source_port;
	u16 destination_port;
	u32 sequence;
	u32 acknowledged;
	u8 size;
	u8 flags;
	u16 window;
	u16 checksum;
	u16 urgent;
};

struct udp {
	u16 source_port;
	u16 destination_port;
	u16 length;
	u16 checksum;
};

struct flow_key {
	u32 source[4];
	u32 destination[4];
	u16 source_port;
	u16 destination_port;
	u8 protocol;
	u8 spare[3];
};

struct rewrite {
	u32 source[4];
	u32 destination[4];
	u16 source_port;
	u16 destination_port;
	u32 interface;
	u32 use;
	u16 ip_delta;
	u16 l4_delta;
	u16 mtu;
	u8 how;
	u8 v6;
	u8 destination_mac[6];
	u8 source_mac[6];
};

struct flow_use {
	u64 packets;
	u64 bytes;
	u64 last_ns;
	u64 spare;
};

_Static_assert(sizeof(struct flow_key) == 40, "as flow_key_t");
_Static_assert(sizeof(struct rewrite) == 64, "as rewrite_t");
_Static_assert(sizeof(struct flow_use) == 32, "as flow_use_t");

/* What the programs need to know of a packet that may be carried. */
struct packet {
	struct flow_key key;
	u32 size;                       /* of the IP packet, by its header */
	u32 headers;                    /* of these the IP and the TCP or UDP header */
	u16 checksum;                   /* TCP's or UDP's */
	u8 v6;
	u8 tos;                         /* traffic class */
	u8 ttl;                         /* hop limit */
};

/* ---- checksums: RFC 1071, RFC 1624 ---- */

INLINE u32 words(const u32 *at, int n)
{
	u64 sum = 0;

	for (int i = 0; i < n; i++)
		sum += at[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE u16 fold(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE u16 change(u16 from, u16 to)
{
	return fold((u16)~from + to);
}

INLINE u16 changed(u16 checksum, u32 delta)
{
	return ~fold((u16)~checksum + delta);
}

/* What a header sums to changes by this when its TTL or hop limit is one less: of IPv4 that is the
 * first byte of its word, of IPv6 the second.
 */
INLINE u16 hop(const struct packet *packet)
{
	return packet->v6 ? 0xffff - 0x0100 : 0xffff - 0x0001;
}

/* ---- reading: 1 when it is a plain packet in the middle of a flow ---- */

INLINE int read_ports(const void *at, const void *end, struct packet *packet)
{
	const struct tcp *tcp = at;
	const struct udp *udp = at;
	u32 size = packet->size - packet->headers;

	if ((const void *)(udp + 1) > end)
		return 0;
	packet->key.source_port = udp->source_port;
	packet->key.destination_port = udp->destination_port;
	if (packet->key.protocol == UDP) {
		u32 length = NETWORK16(udp->length);

		packet->checksum = udp->checksum;
		packet->headers += sizeof(*udp);
		return length >= sizeof(*udp) && length <= size;
	}
	if (packet->key.protocol != TCP || (const void *)(tcp + 1) > end)
		return 0;
	packet->checksum = tcp->checksum;
	packet->headers += (tcp->size >> 4) * 4;
	return (tcp->size >> 4) >= 5 && packet->headers <= packet->size
		&& (tcp->flags & (FIN | SYN | RST | ACK)) == ACK;
}

INLINE int read_ipv4(const struct ipv4 *ip, const void *end, u32 available, struct packet *packet)
{
	if ((const void *)(ip + 1) > end)
		return 0;
	packet->size = NETWORK16(ip->length);
	packet->headers = sizeof(*ip);
	packet->tos = ip->tos;
	packet->ttl = ip->ttl;
	packet->key.source[2] = packet->key.destination[2] = 0xffff0000;
	packet->key.source[3] = ip->source;
	packet->key.destination[3] = ip->destination;
	packet->key.protocol = ip->protocol;
	return ip->version_size == 0x45 && (ip->fragment & ~DONT_FRAGMENT) == 0
		&& ip->ttl > 1 && packet->size >= sizeof(*ip) + sizeof(struct udp)
		&& packet->size <= available && words((const u32 *)ip, 5) == 0xffff
		&& read_ports(ip + 1, end, packet);
}

INLINE int read_ipv6(const struct ipv6 *ip, const void *end, u32 available, struct packet *packet)
{
	u32 first;

	if ((const void *)(ip + 1) > end)
		return 0;
	first = __builtin_bswap32(ip->class_and_label);
	packet->v6 = 1;
	packet->size = sizeof(*ip) + NETWORK16(ip->length);
	packet->headers = sizeof(*ip);
	packet->tos = first >> 20;
	packet->ttl = ip->hops;
	for (int i = 0; i < 4; i++) {
		packet->key.source[i] = ip->source[i];
		packet->key.destination[i] = ip->destination[i];
	}
	packet->key.protocol = ip->next;
	return first >> 28 == 6 && ip->hops > 1
		&& packet->size >= sizeof(*ip) + sizeof(struct udp) && packet->size <= available
		&& read_ports(ip + 1, end, packet);
}

/* `available`: bytes from the IP header to the frame's end, which may be beyond `end`. */
INLINE int read_packet(u16 protocol, const void *ip, const void *end, u32 available,
		       struct packet *packet)
{
	if (protocol == ETHER_IPV4)
		return read_ipv4(ip, end, available, packet);
	return protocol == ETHER_IPV6 && read_ipv6(ip, end, available, packet);
}

/* A frame whose checksum its sender's stack has left to a device that has none (a veth): only the
 * pseudo-header is summed. XDP cannot have it finished; one in 65536 others looks like it.
 */
INLINE int is_unfinished(const struct packet *packet)
{
	u32 sum = words(packet->key.source + 3, 1) + words(packet->key.destination + 3, 1);
	u32 header = packet->v6 ? sizeof(struct ipv6) : sizeof(struct ipv4);

	if (packet->v6)
		sum += words(packet->key.source, 3) + words(packet->key.destination, 3);
	sum += NETWORK16(packet->key.protocol);
	sum += NETWORK16(packet->size - header);
	return fold(sum) == packet->checksum;
}
