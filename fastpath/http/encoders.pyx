"""Content codings as streams, by libraries of the system.

Levels are cheap ones, so that a Pi keeps up with its network: a higher one takes several times the
time and memory for a tenth less of what is sent. Prototypes are those of the libraries' stable
interfaces: zlib 1.2, brotli 1.0, zstd 1.4 and what came after.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from fastpath.filters import ENCODINGS as NAMES

SONAMES = {"gzip": "libz.so.1", "br": "libbrotlienc.so.1", "zstd": "libzstd.so.1"}

cdef extern from "<dlfcn.h>" nogil:
    enum:
        RTLD_NOW
        RTLD_LOCAL
    void *dlopen(const char *name, int how)
    void *dlsym(void *library, const char *name)

cdef extern from "br_memory.h" nogil:
    ctypedef void *(*br_create_fn "fp_br_create")(void *, void *, void *) noexcept
    ctypedef int (*br_set_fn "fp_br_set")(void *, int, uint32_t) noexcept
    ctypedef int (*br_run_fn "fp_br_run")(void *, int, size_t *, const uint8_t **, size_t *,
                                          uint8_t **, size_t *) noexcept
    ctypedef struct br_t "fp_br":
        void *instance
    br_t *br_begin "fp_br_begin" (br_create_fn create, br_set_fn set, uint32_t quality,
                                  uint32_t window)
    void br_end "fp_br_end" (br_t *self)
    int br_go "fp_br_go" (br_t *self, br_run_fn run, int operation, const uint8_t **data,
                          size_t *size, uint8_t **out, size_t *room)

cdef enum:
    # 133 KiB: 4 << 14 for the window, 512 << 7 for the rest (zconf.h).
    GZIP_LEVEL = 1
    GZIP_WINDOW = 14 + 16       # 16: with gzip's head and checksum
    GZIP_MEMORY = 7
    # Up to 576 KiB. Quality 1 takes 186 KiB, and a quarter more is sent than with gzip.
    BR_QUALITY = 2
    BR_WINDOW = 14
    # 521 KiB.
    ZSTD_LEVEL = 1
    ZSTD_WINDOW = 16

cdef enum:                      # of zlib.h
    Z_SYNC_FLUSH = 2
    Z_FINISH = 4
    Z_OK = 0
    Z_STREAM_END = 1
    Z_BUF_ERROR = -5            # nothing to do; not spoilt
    Z_DEFLATED = 8

cdef enum:                      # of zstd.h
    ZSTD_C_COMPRESSION_LEVEL = 100
    ZSTD_C_WINDOW_LOG = 101
    ZSTD_RESET_SESSION_ONLY = 1

cdef struct zstd_in_t:
    const void *data
    size_t size
    size_t pos

cdef struct zstd_out_t:
    void *data
    size_t size
    size_t pos

cdef struct libraries_t:
    int (*deflate_init)(z_stream_t *, int, int, int, int, int, const char *, int) noexcept nogil
    int (*deflate)(z_stream_t *, int) noexcept nogil
    int (*deflate_reset)(z_stream_t *) noexcept nogil
    int (*deflate_end)(z_stream_t *) noexcept nogil
    br_create_fn br_create
    br_set_fn br_set
    br_run_fn br_run
    int (*br_has_more)(void *) noexcept nogil
    void *(*zstd_create)() noexcept nogil
    size_t (*zstd_set)(void *, int, int) noexcept nogil
    size_t (*zstd_run)(void *, zstd_out_t *, zstd_in_t *, int) noexcept nogil
    size_t (*zstd_reset)(void *, int) noexcept nogil
    unsigned int (*zstd_is_error)(size_t) noexcept nogil
    size_t (*zstd_free)(void *) noexcept nogil
    bint has[<int>ENCODINGS]

cdef libraries_t LIB


cdef bint load_gzip(void *library) noexcept nogil:
    LIB.deflate_init = <int (*)(z_stream_t *, int, int, int, int, int, const char *,
                                int) noexcept nogil>dlsym(library, b"deflateInit2_")
    LIB.deflate = <int (*)(z_stream_t *, int) noexcept nogil>dlsym(library, b"deflate")
    LIB.deflate_reset = <int (*)(z_stream_t *) noexcept nogil>dlsym(library, b"deflateReset")
    LIB.deflate_end = <int (*)(z_stream_t *) noexcept nogil>dlsym(library, b"deflateEnd")
    return (LIB.deflate_init != NULL and LIB.deflate != NULL and LIB.deflate_reset != NULL
            and LIB.deflate_end != NULL)


cdef bint load_br(void *library) noexcept nogil:
    LIB.br_create = <br_create_fn>dlsym(library, b"BrotliEncoderCreateInstance")
    LIB.br_set = <br_set_fn>dlsym(library, b"BrotliEncoderSetParameter")
    LIB.br_run = <br_run_fn>dlsym(library, b"BrotliEncoderCompressStream")
    LIB.br_has_more = <int (*)(void *) noexcept nogil>dlsym(library, b"BrotliEncoderHasMoreOutput")
    return (LIB.br_create != NULL and LIB.br_set != NULL and LIB.br_run != NULL
            and LIB.br_has_more != NULL)


cdef bint load_zstd(void *library) noexcept nogil:
    LIB.zstd_create = <void *(*)() noexcept nogil>dlsym(library, b"ZSTD_createCCtx")
    LIB.zstd_set = <size_t (*)(void *, int, int) noexcept nogil>dlsym(
        library, b"ZSTD_CCtx_setParameter")
    LIB.zstd_run = <size_t (*)(void *, zstd_out_t *, zstd_in_t *, int) noexcept nogil>dlsym(
        library, b"ZSTD_compressStream2")
    LIB.zstd_reset = <size_t (*)(void *, int) noexcept nogil>dlsym(library, b"ZSTD_CCtx_reset")
    LIB.zstd_is_error = <unsigned int (*)(size_t) noexcept nogil>dlsym(library, b"ZSTD_isError")
    LIB.zstd_free = <size_t (*)(void *) noexcept nogil>dlsym(library, b"ZSTD_freeCCtx")
    return (LIB.zstd_create != NULL and LIB.zstd_set != NULL and LIB.zstd_run != NULL
            and LIB.zstd_reset != NULL and LIB.zstd_is_error != NULL and LIB.zstd_free != NULL)


def _load():
    """Find the libraries, once at import. They stay."""
    cdef void *library
    for at, name in enumerate(NAMES, 1):
        library = dlopen(SONAMES[name].encode(), RTLD_NOW | RTLD_LOCAL)
        if library == NULL:
            continue
        if at == ENCODING_GZIP:
            LIB.has[<int>at] = load_gzip(library)
        elif at == ENCODING_BR:
            LIB.has[<int>at] = load_br(library)
        else:
            LIB.has[<int>at] = load_zstd(library)


_load()


def available():
    """Names of the encodings whose library is on this machine."""
    return tuple(name for at, name in enumerate(NAMES) if LIB.has[<int>(at + 1)])


cdef bint encoder_available(uint8_t encoding) noexcept nogil:
    return LIB.has[encoding]


cdef bint encoder_begin(encoder_t *self, uint8_t encoding) noexcept nogil:
    cdef bint is_begun = False
    memset(self, 0, sizeof(encoder_t))
    if not LIB.has[encoding]:
        return False
    if encoding == ENCODING_GZIP:
        is_begun = LIB.deflate_init(
            &self.deflating, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY, 0, b"1.2.3",
            <int>sizeof(z_stream_t)) == Z_OK
    elif encoding == ENCODING_BR:
        self.context = br_begin(LIB.br_create, LIB.br_set, BR_QUALITY, BR_WINDOW)
        is_begun = self.context != NULL
    elif encoding == ENCODING_ZSTD:
        self.context = LIB.zstd_create()
        is_begun = (
            self.context != NULL
            and not LIB.zstd_is_error(
                LIB.zstd_set(self.context, ZSTD_C_COMPRESSION_LEVEL, ZSTD_LEVEL))
            and not LIB.zstd_is_error(LIB.zstd_set(self.context, ZSTD_C_WINDOW_LOG, ZSTD_WINDOW)))
    if is_begun or self.context != NULL:
        self.encoding = encoding
    if not is_begun:
        encoder_end(self)
    return is_begun


cdef bint encoder_again(encoder_t *self) noexcept nogil:
    cdef uint8_t encoding = self.encoding
    if encoding == ENCODING_GZIP and LIB.deflate_reset(&self.deflating) == Z_OK:
        return True
    if encoding == ENCODING_ZSTD and not LIB.zstd_is_error(
            LIB.zstd_reset(self.context, ZSTD_RESET_SESSION_ONLY)):
        return True
    encoder_end(self)           # br has no way to begin again
    return encoder_begin(self, encoding)


cdef void encoder_end(encoder_t *self) noexcept nogil:
    if self.encoding == ENCODING_GZIP:
        LIB.deflate_end(&self.deflating)
    elif self.encoding == ENCODING_BR:
        br_end(<br_t *>self.context)
    elif self.encoding == ENCODING_ZSTD:
        LIB.zstd_free(self.context)
    self.encoding = ENCODING_NONE
    self.context = NULL


cdef int encoder_run(encoder_t *self, encode_t wanted, const uint8_t **data, size_t *size,
                     uint8_t *out, size_t *room) noexcept nogil:
    if self.encoding == ENCODING_GZIP:
        return run_gzip(&self.deflating, wanted, data, size, out, room)
    if self.encoding == ENCODING_BR:
        return run_br(<br_t *>self.context, wanted, data, size, out, room)
    if self.encoding == ENCODING_ZSTD:
        return run_zstd(self.context, wanted, data, size, out, room)
    return ENCODE_FAILED


cdef int run_gzip(z_stream_t *stream, encode_t wanted, const uint8_t **data, size_t *size,
                  uint8_t *out, size_t *room) noexcept nogil:
    cdef int code
    cdef int how = 0
    if wanted != ENCODE_GO:
        how = Z_SYNC_FLUSH if wanted == ENCODE_FLUSH else Z_FINISH
    stream.next_in = data[0]
    stream.avail_in = <uint32_t>size[0]
    stream.next_out = out
    stream.avail_out = <uint32_t>room[0]
    code = LIB.deflate(stream, how)
    data[0] = stream.next_in
    size[0] = stream.avail_in
    room[0] = stream.avail_out
    if code == Z_STREAM_END:
        return ENCODE_DONE
    if code != Z_OK and code != Z_BUF_ERROR:
        return ENCODE_FAILED
    if room[0] == 0:
        return ENCODE_FULL
    return ENCODE_DONE if size[0] == 0 and wanted != ENCODE_END else ENCODE_FAILED


cdef int run_br(br_t *br, encode_t wanted, const uint8_t **data, size_t *size,
                uint8_t *out, size_t *room) noexcept nogil:
    # The operations have the values of encode_t.
    cdef size_t before
    while True:
        before = size[0] + room[0]
        if not br_go(br, LIB.br_run, <int>wanted, data, size, &out, room):
            return ENCODE_FAILED
        if size[0] == 0 and not LIB.br_has_more(br.instance):
            return ENCODE_DONE
        if room[0] == 0:
            return ENCODE_FULL
        if size[0] + room[0] == before:
            return ENCODE_FAILED


cdef int run_zstd(void *context, encode_t wanted, const uint8_t **data, size_t *size,
                  uint8_t *out, size_t *room) noexcept nogil:
    # The directives have the values of encode_t.
    cdef zstd_in_t source
    cdef zstd_out_t target
    cdef size_t left = 0
    cdef size_t before
    source.data = data[0]
    source.size = size[0]
    source.pos = 0
    target.data = out
    target.size = room[0]
    target.pos = 0
    while True:
        before = source.pos + target.pos
        left = LIB.zstd_run(context, &target, &source, <int>wanted)
        if LIB.zstd_is_error(left):
            return ENCODE_FAILED
        if source.pos == source.size and (left == 0 or wanted == ENCODE_GO):
            break
        if target.pos == target.size or source.pos + target.pos == before:
            break
    data[0] += source.pos
    size[0] -= source.pos
    room[0] -= target.pos
    if size[0] == 0 and (left == 0 or wanted == ENCODE_GO):
        return ENCODE_DONE
    return ENCODE_FULL if room[0] == 0 else ENCODE_FAILED
