#include "base/arena.h"
#include "base/err.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct arena_block {
    struct arena_block *next;
    size_t cap, used;
    _Alignas(16) unsigned char bytes[];
};

enum { FIRST_BLOCK_BYTES = 4096, BLOCK_BYTES_MAX = 4 << 20 };

void *mem_alloc(size_t bytes)
{
    void *at = malloc(bytes ? bytes : 1);

    if (!at)
        die("out of memory: %zu bytes were asked for", bytes);
    return at;
}

void *mem_alloc_zero(size_t count, size_t size)
{
    void *at = calloc(count ? count : 1, size ? size : 1);

    if (!at)
        die("out of memory: %zu x %zu bytes were asked for", count, size);
    return at;
}

void *mem_resize(void *at, size_t bytes)
{
    void *moved = realloc(at, bytes ? bytes : 1);

    if (!moved)
        die("out of memory: %zu bytes were asked for", bytes);
    return moved;
}

char *mem_copy_text(const char *text)
{
    size_t bytes = strlen(text) + 1;

    return memcpy(mem_alloc(bytes), text, bytes);
}

static void add_block(struct arena *arena, size_t bytes_min)
{
    size_t cap = arena->block ? arena->block->cap * 2 : FIRST_BLOCK_BYTES;
    struct arena_block *block;

    if (cap > BLOCK_BYTES_MAX)
        cap = BLOCK_BYTES_MAX;
    if (cap < bytes_min)
        cap = bytes_min;
    ASSERT(cap <= SIZE_MAX - sizeof *block);
    block = mem_alloc(sizeof *block + cap);
    *block = (struct arena_block){.next = arena->block, .cap = cap};
    arena->block = block;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    size_t need;
    void *at;

    ASSERT(bytes <= SIZE_MAX / 2);
    need = (bytes + 15) & ~(size_t)15;
    if (!arena->block || arena->block->cap - arena->block->used < need)
        add_block(arena, need);
    at = arena->block->bytes + arena->block->used;
    arena->block->used += need;
    arena->used_bytes += need;
    return memset(at, 0, bytes);
}

void *arena_alloc_array(struct arena *arena, size_t count, size_t size)
{
    size_t bytes;

    ASSERT(!__builtin_mul_overflow(count, size, &bytes));
    return arena_alloc(arena, bytes);
}

void arena_deinit(struct arena *arena)
{
    while (arena->block) {
        struct arena_block *block = arena->block;
        arena->block = block->next;
        free(block);
    }
    arena->used_bytes = 0;
}

void arena_reset(struct arena *arena)
{
    struct arena_block *keep = arena->block;

    for (struct arena_block *block = arena->block; block; block = block->next)
        if (block->cap > keep->cap)
            keep = block;
    while (arena->block) {
        struct arena_block *block = arena->block;
        arena->block = block->next;
        if (block != keep)
            free(block);
    }
    if (keep) {
        keep->next = NULL;
        keep->used = 0;
    }
    arena->block = keep;
    arena->used_bytes = 0;
}

char *arena_copy(struct arena *arena, const void *at, size_t len)
{
    char *copy = arena_alloc(arena, len + 1);

    if (len)
        memcpy(copy, at, len);
    return copy;
}

char *arena_vprintf(struct arena *arena, const char *format, va_list args)
{
    va_list again;
    char *text;
    int len;

    va_copy(again, args);
    len = vsnprintf(NULL, 0, format, again);
    va_end(again);
    ASSERT(len >= 0);
    text = arena_alloc(arena, (size_t)len + 1);
    vsnprintf(text, (size_t)len + 1, format, args);
    return text;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args;
    char *text;

    va_start(args, format);
    text = arena_vprintf(arena, format, args);
    va_end(args);
    return text;
}

void *mem_alloc_pages(size_t bytes)
{
    void *at;

    if (!bytes)
        return NULL;
    at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        die("out of memory: %zu bytes were asked for", bytes);
    madvise(at, bytes, MADV_HUGEPAGE);
    return at;
}

void mem_free_pages(void *at, size_t bytes)
{
    if (bytes)
        munmap(at, bytes);
}
