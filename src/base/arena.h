/* base/arena.h - memory that belongs to a lifetime.
 *
 * An arena hands out memory that is never freed piece by piece: the lifetime it is named after (process,
 * connection, request, job, step) ends and arena_deinit or arena_reset returns everything at once. Blocks
 * grow by doubling. Allocation does not fail: when the system has no memory the process ends with a clear
 * line, because everything here recovers from a restart; sizes that come from outside are bounded before
 * they get here. Not thread-safe: one arena, one thread. */
#pragma once

#include <stdarg.h>
#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *block; /* newest first */
    size_t used_bytes;         /* handed out since the last reset, all blocks */
};

void arena_deinit(struct arena *arena); /* a zeroed struct is an empty arena */
void arena_reset(struct arena *arena);  /* keeps the largest block for reuse */

/* Zeroed memory, aligned to 16 bytes. count × size is checked for overflow. */
void *arena_alloc(struct arena *arena, size_t bytes);
void *arena_alloc_array(struct arena *arena, size_t count, size_t size);
#define arena_new(arena, type)               ((type *)arena_alloc((arena), sizeof(type)))
#define arena_new_array(arena, type, count)  ((type *)arena_alloc_array((arena), (count), sizeof(type)))

/* NUL-terminated copies. */
char *arena_copy(struct arena *arena, const void *at, size_t len);
char *arena_printf(struct arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *arena_vprintf(struct arena *arena, const char *format, va_list args);

/* malloc family that ends the process instead of returning NULL. */
void *mem_alloc(size_t bytes);              /* not zeroed */
void *mem_alloc_zero(size_t count, size_t size);
void *mem_resize(void *at, size_t bytes);
char *mem_copy_text(const char *text);

/* For the few big allocations: zeroed, aligned to a page, huge pages where the system has them. Pages that are never
 * touched cost nothing. Freed with the same byte count; NULL and 0 go together. */
void *mem_alloc_pages(size_t bytes);
void mem_free_pages(void *at, size_t bytes);
