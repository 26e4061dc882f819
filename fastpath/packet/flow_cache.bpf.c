/* The flow cache: carries the packets of flows that the forwarder has decided about.
 *
 * An exact match on the 5-tuple gives a rewrite; whatever is not a plain packet in the middle of
 * such a flow goes on to the forwarder untouched. So there is no policy here. One source gives
 * three programs: for XDP, for tc ingress, and for the tap, which at tc sees frames first and must
 * leave alone what tc is about to carry. `make bpf` compiles it into flow_cache_code.h.
 *
 * No helper that is called is restricted to GPL programs.
 */

#include "flow_cache_packet.h"

#define SECTION(name) __attribute__((section(name), used))

enum { PACKET_HOST = 0, TC_NEXT = -1, TC_DROP = 2 };

/* Stand for the maps: the loader puts the descriptors of real ones in. */
SECTION(".maps") int flows;             /* flow_key -> rewrite, a hash */
SECTION(".maps") int uses;              /* rewrite.use -> flow_use, an array */
SECTION(".maps") int lease;             /* 0 -> until when we may speak for VIPs, by coarse_ns */

static void *(*map_lookup)(void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
static u64 (*coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*redirect)(u32, u64) = (void *)BPF_FUNC_redirect;
static long (*xdp_adjust_head)(struct xdp_md *, int) = (void *)BPF_FUNC_xdp_adjust_head;
static long (*skb_pull)(struct __sk_buff *, u32) = (void *)BPF_FUNC_skb_pull_data;
static long (*skb_adjust_room)(struct __sk_buff *, int, u32, u64) =
	(void *)BPF_FUNC_skb_adjust_room;
static long (*skb_store)(struct __sk_buff *, u32, const void *, u32, u64) =
	(void *)BPF_FUNC_skb_store_bytes;
static long (*skb_load_relative)(const struct __sk_buff *, u32, void *, u32, u32) =
	(void *)BPF_FUNC_skb_load_bytes_relative;
static long (*l4_checksum_replace)(struct __sk_buff *, u32, u64, u64, u64) =
	(void *)BPF_FUNC_l4_csum_replace;
static long (*checksum_update)(struct __sk_buff *, u32) = (void *)BPF_FUNC_csum_update;

/* ---- deciding: NULL when the packet goes up ---- */

/* NAT speaks in the name of VIPs: only while they are ours, whatever has become of who said so. */
INLINE int is_leased(void)
{
	u32 only = 0;
	const volatile u64 *until_ns = map_lookup(&lease, &only);

	return until_ns && coarse_ns() < *until_ns;
}

/* `segment_size`: payload of each packet that a super-frame (GRO) will be cut into, else 0. */
INLINE const struct rewrite *find(const struct packet *packet, u32 segment_size)
{
	const struct rewrite *rewrite = map_lookup(&flows, &packet->key);
	u32 longest = segment_size ? packet->headers + segment_size : packet->size;

	if (!rewrite || longest > rewrite->mtu)
		return 0;
	if (rewrite->how == REWRITE_NAT)
		return rewrite->v6 == packet->v6 && is_leased() ? rewrite : 0;
	if (rewrite->how != REWRITE_ENCAPSULATE)
		return rewrite->how == REWRITE_MAC ? rewrite : 0;
	/* The outer header tells a super-frame's length too; the kernel grows those of TCP only. */
	if (packet->size + sizeof(struct ipv6) > 0xffff)
		return 0;
	return segment_size && packet->key.protocol != TCP ? 0 : rewrite;
}

INLINE void record(struct flow_use *use, u32 n, u64 bytes)
{
	__sync_fetch_and_add(&use->packets, n);
	__sync_fetch_and_add(&use->bytes, bytes);
	use->last_ns = coarse_ns();
}

/* ---- writing ---- */

INLINE void write_macs(struct ethernet *frame, const struct rewrite *rewrite)
{
	__builtin_memcpy(frame->destination, rewrite->destination_mac, 6);
	__builtin_memcpy(frame->source, rewrite->source_mac, 6);
}

/* All of MAC and NAT but TCP's and UDP's checksum. */
INLINE int write_in_place(void *data, void *end, const struct packet *packet,
			  const struct rewrite *rewrite)
{
	int nat = rewrite->how == REWRITE_NAT;
	struct ethernet *frame = data;
	struct udp *l4;

	if (packet->v6) {
		struct ipv6 *ip = (void *)(frame + 1);

		l4 = (void *)(ip + 1);
		if ((void *)(l4 + 1) > end)
			return 0;
		ip->hops = packet->ttl - 1;
		for (int i = 0; nat && i < 4; i++) {
			ip->source[i] = rewrite->source[i];
			ip->destination[i] = rewrite->destination[i];
		}
	} else {
		struct ipv4 *ip = (void *)(frame + 1);

		l4 = (void *)(ip + 1);
		if ((void *)(l4 + 1) > end)
			return 0;
		ip->ttl = packet->ttl - 1;
		ip->checksum = changed(ip->checksum, hop(packet) + (nat ? rewrite->ip_delta : 0));
		if (nat) {
			ip->source = rewrite->source[3];
			ip->destination = rewrite->destination[3];
		}
	}
	if (nat) {
		l4->source_port = rewrite->source_port;
		l4->destination_port = rewrite->destination_port;
	}
	write_macs(frame, rewrite);
	return 1;
}

INLINE void outer_ipv4(struct ipv4 *ip, const struct packet *packet, const struct rewrite *rewrite)
{
	ip->version_size = 0x45;
	ip->tos = packet->tos;
	ip->length = NETWORK16(sizeof(*ip) + packet->size);
	ip->id = 0;
	ip->fragment = 0;
	ip->ttl = 64;
	ip->protocol = packet->v6 ? IPV6 : IPV4;
	ip->checksum = 0;
	ip->source = rewrite->source[3];
	ip->destination = rewrite->destination[3];
	ip->checksum = ~words((const u32 *)ip, 5);
}

INLINE void outer_ipv6(struct ipv6 *ip, const struct packet *packet, const struct rewrite *rewrite)
{
	ip->class_and_label = __builtin_bswap32(6u << 28 | packet->tos << 20);
	ip->length = NETWORK16(packet->size);
	ip->next = packet->v6 ? IPV6 : IPV4;
	ip->hops = 64;
	for (int i = 0; i < 4; i++) {
		ip->source[i] = rewrite->source[i];
		ip->destination[i] = rewrite->destination[i];
	}
}

/* ---- XDP; 0, or the verdict when it is not to be transmitted ---- */

INLINE int xdp_in_place(struct xdp_md *context, const struct packet *packet,
			const struct rewrite *rewrite)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	u32 at = sizeof(struct ethernet);
	u16 *checksum;
	u16 sum;

	if (!write_in_place(data, end, packet, rewrite))
		return XDP_DROP;
	if (rewrite->how != REWRITE_NAT)
		return 0;
	if (packet->key.protocol == UDP && packet->checksum == 0)
		return 0;                           /* it has none (RFC 768) */
	at += packet->v6 ? sizeof(struct ipv6) : sizeof(struct ipv4);
	at += packet->key.protocol == TCP ? 16 : 6;
	checksum = data + at;
	if ((void *)(checksum + 1) > end)
		return XDP_DROP;
	sum = changed(packet->checksum, rewrite->l4_delta);
	*checksum = sum == 0 && packet->key.protocol == UDP ? 0xffff : sum;
	return 0;
}

INLINE int xdp_encapsulate(struct xdp_md *context, const struct packet *packet,
			   const struct rewrite *rewrite)
{
	int size = rewrite->v6 ? sizeof(struct ipv6) : sizeof(struct ipv4);
	struct ethernet *frame;
	void *end;

	if (xdp_adjust_head(context, -size) != 0)
		return XDP_PASS;
	frame = (void *)(long)context->data;
	end = (void *)(long)context->data_end;
	if ((void *)(frame + 1) + sizeof(struct ipv6) > end)
		return XDP_DROP;
	write_macs(frame, rewrite);
	if (rewrite->v6) {
		frame->protocol = ETHER_IPV6;
		outer_ipv6((void *)(frame + 1), packet, rewrite);
	} else {
		frame->protocol = ETHER_IPV4;
		outer_ipv4((void *)(frame + 1), packet, rewrite);
	}
	return 0;
}

SECTION("xdp") int flow_cache_xdp(struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	u64 size = end - data;
	struct ethernet *frame = data;
	struct packet packet = {};
	const struct rewrite *rewrite;
	struct flow_use *use;
	int verdict;

	if ((void *)(frame + 1) > end || frame->destination[0] & 1)
		return XDP_PASS;
	if (!read_packet(frame->protocol, frame + 1, end, size - sizeof(*frame), &packet)
	    || is_unfinished(&packet))
		return XDP_PASS;
	rewrite = find(&packet, 0);
	use = rewrite ? map_lookup(&uses, &rewrite->use) : 0;
	if (!use)
		return XDP_PASS;
	if (rewrite->how == REWRITE_ENCAPSULATE)
		verdict = xdp_encapsulate(context, &packet, rewrite);
	else
		verdict = xdp_in_place(context, &packet, rewrite);
	if (verdict != 0)
		return verdict;
	record(use, 1, size);
	/* Also where it came in: after XDP_TX a veth wakes its peer only if that has a program, too. */
	return redirect(rewrite->interface, 0);
}

/* ---- tc ---- */

/* TCP's and UDP's checksum, right also when a device is to finish it, and the sum over the frame
 * that a device may have given (CHECKSUM_COMPLETE): an IPv4 header sums to nothing whatever changes
 * in it, but an IPv6 header does not.
 */
INLINE int tc_checksums(struct __sk_buff *skb, const struct packet *packet,
			const struct rewrite *rewrite)
{
	u32 at = sizeof(struct ethernet);
	u32 flags = packet->key.protocol == UDP ? BPF_F_MARK_MANGLED_0 : 0;
	u32 addresses = 0;
	u16 ports;

	if (rewrite->how == REWRITE_NAT) {
		at += packet->v6 ? sizeof(struct ipv6) : sizeof(struct ipv4);
		at += packet->key.protocol == TCP ? 16 : 6;
		ports = fold(change(packet->key.source_port, rewrite->source_port)
			     + change(packet->key.destination_port, rewrite->destination_port));
		addresses = change(ports, rewrite->l4_delta);
		if (l4_checksum_replace(skb, at, 0, addresses, flags | BPF_F_PSEUDO_HDR) != 0
		    || l4_checksum_replace(skb, at, 0, ports, flags) != 0)
			return 0;
	}
	if (packet->v6)
		checksum_update(skb, addresses + hop(packet));
	return 1;
}

INLINE int tc_encapsulate(struct __sk_buff *skb, const struct packet *packet,
			  const struct rewrite *rewrite)
{
	struct ethernet frame;
	struct ipv6 outer = {};
	u32 size = rewrite->v6 ? sizeof(struct ipv6) : sizeof(struct ipv4);
	u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	flags |= rewrite->v6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	if (skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, flags) != 0)
		return TC_NEXT;
	write_macs(&frame, rewrite);
	frame.protocol = rewrite->v6 ? ETHER_IPV6 : ETHER_IPV4;
	if (skb_store(skb, 0, &frame, sizeof(frame), 0) != 0)
		return TC_DROP;
	if (rewrite->v6) {
		outer_ipv6(&outer, packet, rewrite);
		if (skb_store(skb, sizeof(frame), &outer, sizeof(outer), BPF_F_RECOMPUTE_CSUM) != 0)
			return TC_DROP;
	} else {
		outer_ipv4((struct ipv4 *)&outer, packet, rewrite);
		if (skb_store(skb, sizeof(frame), &outer, sizeof(struct ipv4),
			      BPF_F_RECOMPUTE_CSUM) != 0)
			return TC_DROP;
	}
	return 0;
}

INLINE int tc_in_place(struct __sk_buff *skb, const struct packet *packet,
		       const struct rewrite *rewrite)
{
	if (!tc_checksums(skb, packet, rewrite))
		return TC_DROP;
	return write_in_place((void *)(long)skb->data, (void *)(long)skb->data_end, packet, rewrite)
		? 0 : TC_DROP;
}

/* A frame to this host, without a tag in it or beside it. */
INLINE int is_ours(const struct __sk_buff *skb)
{
	return skb->pkt_type == PACKET_HOST && !skb->vlan_present;
}

SECTION("tc") int flow_cache_tc(struct __sk_buff *skb)
{
	const u32 wanted = sizeof(struct ethernet) + HEADERS_MAX;
	u32 size = skb->len;
	u32 n = skb->gso_segs;
	struct ethernet *frame;
	struct packet packet = {};
	const struct rewrite *rewrite;
	struct flow_use *use;
	void *end;
	int verdict;

	if (!is_ours(skb))
		return TC_NEXT;
	if (skb->data_end - skb->data < wanted && skb->data_end - skb->data < size)
		skb_pull(skb, size < wanted ? size : wanted);
	frame = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if ((void *)(frame + 1) > end
	    || !read_packet(frame->protocol, frame + 1, end, size - sizeof(*frame), &packet))
		return TC_NEXT;
	rewrite = find(&packet, skb->gso_size);
	use = rewrite ? map_lookup(&uses, &rewrite->use) : 0;
	if (!use)
		return TC_NEXT;
	if (rewrite->how == REWRITE_ENCAPSULATE)
		verdict = tc_encapsulate(skb, &packet, rewrite);
	else
		verdict = tc_in_place(skb, &packet, rewrite);
	if (verdict != 0)
		return verdict;
	n = n ? n : 1;
	record(use, n, size + (u64)(n - 1) * (sizeof(*frame) + packet.headers));
	return redirect(rewrite->interface, 0);
}

/* ---- the tap at tc: 1 when tc is about to carry the frame, else 0 ---- */

SECTION("tap") int flow_cache_tap(struct __sk_buff *skb)
{
	u32 headers[HEADERS_MAX / 4] = {};
	u32 size = HEADERS_MAX;
	struct packet packet = {};
	const struct rewrite *rewrite;

	if (!is_ours(skb))
		return 0;
	/* The shortest that there are: IPv4 and IPv6 with UDP, IPv4 with TCP. */
	if (skb_load_relative(skb, 0, headers, size, BPF_HDR_START_NET) != 0) {
		size = 48;
		if (skb_load_relative(skb, 0, headers, size, BPF_HDR_START_NET) != 0) {
			size = 40;
			if (skb_load_relative(skb, 0, headers, size, BPF_HDR_START_NET) != 0) {
				size = 28;
				if (skb_load_relative(skb, 0, headers, size, BPF_HDR_START_NET) != 0)
					return 0;
			}
		}
	}
	if (!read_packet(skb->protocol, headers, (void *)headers + size, skb->len, &packet))
		return 0;
	rewrite = find(&packet, skb->gso_size);
	return rewrite && map_lookup(&uses, &rewrite->use) ? 1 : 0;
}
