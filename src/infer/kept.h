/* infer/kept.h - keys and values of sequences that have ended, for those that begin alike.
 *
 * What is kept is a copy as long as its tokens. A sequence that goes on where an earlier one ended (the next
 * message of a chat) takes its place; else the one that was of no use for longest makes room. Only what has
 * the same scope is shared: the scope tells adapters apart, and askers who must not learn of each other's
 * prompts by their own being quick. */
#pragma once

#include "model/decoder.h"

struct kept;

enum { KEPT_TOKENS_MIN = 16, KEPT_MAX = 64 }; /* fewer tokens are not worth it; how many sequences */

/* bytes_max: of all together; 0 keeps nothing. model must outlive it. */
struct kept *kept_new(struct model *model, uint64_t bytes_max);
void kept_free(struct kept *kept); /* NULL is fine */

/* cache holds the first `count` tokens at least. */
void kept_add(struct kept *kept, const char *scope, const int32_t *tokens, int32_t count,
              const struct model_cache *cache);
/* The one with the most tokens from the beginning on; *count is how many, 0: none. Valid until the next call. */
const struct model_cache *kept_find(struct kept *kept, const char *scope, const int32_t *tokens, int32_t count_max,
                                    int32_t *count);
/* Gives all memory back: a device has no room. False: there was nothing. */
bool kept_clear(struct kept *kept);

/* How many tokens from the beginning on are the same, at most `count`. */
int32_t kept_common(const int32_t *a, const int32_t *b, int32_t count);
