/* Memory for libbrotlienc. Builds of it, Debian's among them, end the process when there is none;
   here the call that asked for it ends instead, by longjmp, and all its blocks are given back. */

#ifndef FASTPATH_HTTP_BR_MEMORY_H
#define FASTPATH_HTTP_BR_MEMORY_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef void *(*fp_br_create)(void *, void *, void *);
typedef int (*fp_br_set)(void *, int, uint32_t);
typedef int (*fp_br_run)(void *, int, size_t *, const uint8_t **, size_t *, uint8_t **, size_t *);

typedef union fp_br_block {
    struct {
        union fp_br_block *next, *previous;
    } in;
    max_align_t aligned;
} fp_br_block;

typedef struct {
    jmp_buf escape;         /* set while a function of the library runs */
    void *instance;         /* NULL: what there was is gone */
    fp_br_block *blocks;
} fp_br;

static void *fp_br_alloc(void *opaque, size_t size)
{
    fp_br *self = opaque;
    fp_br_block *block = NULL;
    if (size < SIZE_MAX - sizeof(fp_br_block))
        block = malloc(sizeof(fp_br_block) + size);
    if (block == NULL)
        longjmp(self->escape, 1);
    block->in.next = self->blocks;
    block->in.previous = NULL;
    if (self->blocks != NULL)
        self->blocks->in.previous = block;
    self->blocks = block;
    return block + 1;
}

static void fp_br_free(void *opaque, void *memory)
{
    fp_br *self = opaque;
    fp_br_block *block = memory;
    if (memory == NULL)
        return;
    block -= 1;
    if (block->in.next != NULL)
        block->in.next->in.previous = block->in.previous;
    if (block->in.previous != NULL)
        block->in.previous->in.next = block->in.next;
    else
        self->blocks = block->in.next;
    free(block);
}

/* Gives everything back, whatever state the library has left it in. */
static void fp_br_end(fp_br *self)
{
    if (self == NULL)
        return;
    while (self->blocks != NULL)
        fp_br_free(self, self->blocks + 1);
    free(self);
}

/* NULL when there is no memory, or the parameters are not the library's. */
static fp_br *fp_br_begin(fp_br_create create, fp_br_set set, uint32_t quality, uint32_t window)
{
    enum { BROTLI_PARAM_QUALITY = 1, BROTLI_PARAM_LGWIN = 2 };
    fp_br *self = calloc(1, sizeof(fp_br));
    if (self == NULL)
        return NULL;
    if (setjmp(self->escape) == 0) {
        self->instance = create(fp_br_alloc, fp_br_free, self);
        if (self->instance != NULL && set(self->instance, BROTLI_PARAM_QUALITY, quality)
            && set(self->instance, BROTLI_PARAM_LGWIN, window))
            return self;
    }
    fp_br_end(self);
    return NULL;
}

/* As BrotliEncoderCompressStream; 0, too, when there is no memory: nothing goes any more then. */
static int fp_br_go(fp_br *self, fp_br_run run, int operation, const uint8_t **data, size_t *size,
                    uint8_t **out, size_t *room)
{
    if (self->instance == NULL)
        return 0;
    if (setjmp(self->escape) != 0) {
        self->instance = NULL;
        return 0;
    }
    return run(self->instance, operation, size, data, room, out, NULL);
}

#endif
