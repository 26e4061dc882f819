"""Acquire, release and relaxed access to what several threads see (GCC's __atomic builtins)."""

from libc.stdint cimport int64_t, uint64_t

cdef extern from * nogil:
    """
    #define fp_load_pointer(where) __atomic_load_n((where), __ATOMIC_ACQUIRE)
    #define fp_store_pointer(where, value) __atomic_store_n((where), (value), __ATOMIC_RELEASE)
    #define fp_load_acquire(where) __atomic_load_n((where), __ATOMIC_ACQUIRE)
    #define fp_store_release(where, value) __atomic_store_n((where), (value), __ATOMIC_RELEASE)
    #define fp_load_relaxed(where) __atomic_load_n((where), __ATOMIC_RELAXED)
    #define fp_store_relaxed(where, value) __atomic_store_n((where), (value), __ATOMIC_RELAXED)
    #define fp_add_relaxed(where, value) __atomic_add_fetch((where), (value), __ATOMIC_RELAXED)
    #define fp_exchange_acquire(where, value) \\
        __atomic_exchange_n((where), (value), __ATOMIC_ACQUIRE)
    #define fp_replace_relaxed(where, expected, value) __atomic_compare_exchange_n( \\
        (where), (expected), (value), 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
    #if defined(__x86_64__) || defined(__i386__)
    #define fp_relax() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define fp_relax() __asm__ volatile("isb" ::: "memory")    /* longer than `yield`, a no-op */
    #else
    #define fp_relax() __asm__ volatile("" ::: "memory")
    #endif
    #define fp_exchange(where, value) __atomic_exchange_n((where), (value), __ATOMIC_ACQ_REL)
    """
    void *load_pointer "fp_load_pointer" (void **where)
    void store_pointer "fp_store_pointer" (void **where, void *value)
    uint64_t load_acquire "fp_load_acquire" (const uint64_t *where)
    void store_release "fp_store_release" (uint64_t *where, uint64_t value)
    uint64_t load_relaxed "fp_load_relaxed" (const uint64_t *where)
    void store_relaxed "fp_store_relaxed" (uint64_t *where, uint64_t value)
    int64_t load_signed "fp_load_relaxed" (const int64_t *where)
    void store_signed "fp_store_relaxed" (int64_t *where, int64_t value)
    # Acquires and releases; returns what was there.
    uint64_t exchange "fp_exchange" (uint64_t *where, uint64_t value)
    # Adds for several writers; returns the new value.
    int64_t add_shared "fp_add_relaxed" (int64_t *where, int64_t value)
    # Puts a value in and returns the one before.
    uint64_t exchange_acquire "fp_exchange_acquire" (uint64_t *where, uint64_t value)
    # Puts a value in if the expected one is still there; else it comes back in `expected`.
    bint replace_relaxed "fp_replace_relaxed" (uint64_t *where, uint64_t *expected, uint64_t value)
    # A moment's rest while waiting for another core.
    void relax "fp_relax" ()


cdef inline void count(uint64_t *counter, uint64_t n) noexcept nogil:
    """Add to a counter of which the caller is the only writer."""
    store_relaxed(counter, counter[0] + n)


cdef inline void gauge(int64_t *value, int64_t change) noexcept nogil:
    """Change a gauge of which the caller is the only writer."""
    store_signed(value, value[0] + change)
