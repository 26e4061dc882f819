/* How far a run of bytes of one class goes, 16 at a time: SSE2 and NEON, which every x86-64 and
 * arm64 has, and none elsewhere. Each returns a place in data[at:end] before which every byte is of
 * the class; it need not be the first that is not: the caller looks on, byte by byte. With fewer
 * than 16 bytes left that is at once.
 */
#ifndef FASTPATH_HTTP_SCAN_H
#define FASTPATH_HTTP_SCAN_H

#include <stdint.h>

#if defined(__SSE2__)
#include <emmintrin.h>

typedef __m128i scan_block_t;

static inline scan_block_t scan_load(const uint8_t *data) {
    return _mm_loadu_si128((const __m128i *)data);
}
/* 0xff where a byte is in first..last, both of them less than 0x80 or 0xff. */
static inline scan_block_t scan_in(scan_block_t block, uint8_t first, uint8_t last) {
    __m128i low = _mm_subs_epu8(_mm_set1_epi8((char)first), block);
    __m128i high = _mm_subs_epu8(block, _mm_set1_epi8((char)last));
    return _mm_cmpeq_epi8(_mm_or_si128(low, high), _mm_setzero_si128());
}
static inline scan_block_t scan_or(scan_block_t a, scan_block_t b) { return _mm_or_si128(a, b); }
static inline scan_block_t scan_lower(scan_block_t block) {
    return _mm_or_si128(block, _mm_set1_epi8(0x20));
}
/* How many of the 16 are 0xff before the first that is 0. */
static inline unsigned scan_count(scan_block_t good) {
    unsigned bad = ~(unsigned)_mm_movemask_epi8(good) & 0xffff;
    return bad ? (unsigned)__builtin_ctz(bad) : 16;
}
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__ARM_BIG_ENDIAN)
#include <arm_neon.h>

typedef uint8x16_t scan_block_t;

static inline scan_block_t scan_load(const uint8_t *data) { return vld1q_u8(data); }
static inline scan_block_t scan_in(scan_block_t block, uint8_t first, uint8_t last) {
    return vandq_u8(vcgeq_u8(block, vdupq_n_u8(first)), vcleq_u8(block, vdupq_n_u8(last)));
}
static inline scan_block_t scan_or(scan_block_t a, scan_block_t b) { return vorrq_u8(a, b); }
static inline scan_block_t scan_lower(scan_block_t block) {
    return vorrq_u8(block, vdupq_n_u8(0x20));
}
/* Four bits a byte: NEON has no movemask. */
static inline unsigned scan_count(scan_block_t good) {
    uint8x8_t nibbles = vshrn_n_u16(vreinterpretq_u16_u8(good), 4);
    uint64_t bad = ~vget_lane_u64(vreinterpret_u64_u8(nibbles), 0);
    return bad ? (unsigned)__builtin_ctzll(bad) / 4 : 16;
}
#else
#define SCAN_NONE 1
#endif

#ifdef SCAN_NONE
#define SCAN(name, good)                                                                           \
    static inline uint16_t name(const uint8_t *data, uint16_t at, uint16_t end) {                  \
        (void)data;                                                                                \
        (void)end;                                                                                 \
        return at;                                                                                 \
    }
#else
#define SCAN(name, good)                                                                           \
    static inline uint16_t name(const uint8_t *data, uint16_t at, uint16_t end) {                  \
        while (end - at >= 16) {                                                                   \
            scan_block_t block = scan_load(data + at);                                             \
            unsigned n = scan_count(good);                                                         \
            at = (uint16_t)(at + n);                                                               \
            if (n < 16) break;                                                                     \
        }                                                                                          \
        return at;                                                                                 \
    }
#endif

/* Letters, digits and `-`: of what a field's name may have, that which nearly all have. */
SCAN(scan_name_bytes, scan_or(scan_in(scan_lower(block), 'a', 'z'),
                              scan_or(scan_in(block, '0', '9'), scan_in(block, '-', '-'))))
/* Visible ASCII without `#`. */
SCAN(scan_target_bytes, scan_or(scan_in(block, '$', '~'), scan_in(block, '!', '"')))
/* What a field's value may have, but a tab. */
SCAN(scan_value_bytes, scan_or(scan_in(block, ' ', '~'), scan_in(block, 0x80, 0xff)))

#endif
