"""What a gateway lets in and believes, beside its times; fastpath.option_tables fills it in."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.abi cimport prefixes_t

# What becomes of fields whose names have an underscore, which backends may take for a dash.
cdef enum underscores_t:
    UNDERSCORES_DROP
    UNDERSCORES_KEEP            # but never what stands for a field that is ours to write
    UNDERSCORES_REJECT

cdef struct options_t:
    prefixes_t trusted          # proxies that say who asks
    uint64_t body_size_max      # 0: no limit
    uint32_t connections_max    # from clients, of all workers; 0: no limit of its own
    uint32_t connections_per_source     # the same of one client address; 0: no limit
    uint16_t head_size_max
    uint16_t fields_max
    uint16_t target_size_max
    uint8_t underscores         # underscores_t
    bint logs                   # a record of each request at its end
