/* api/intake.h - bytes on their way to a blob, beside the loop.
 *
 * The loop copies what arrives of a request's body; a background task (os/background.h) checks, hashes and writes it,
 * one at a time for each intake. When the disk is behind, the body pauses, so an intake holds at most about 1 MiB. To
 * commit writes the rest and makes the blob durable; only then on_committed is called, and the caller makes its row and
 * keeps the blob. Whatever is not kept when the intake is freed goes again: that is all a client that has gone, a
 * failed row or a refused body need. */
#pragma once

#include "api/api_int.h"

struct intake;

/* The call's exchange pauses when the disk is behind. is_checked: the bytes are a training file, perhaps. Room for
 * bytes is promised (-1: as they come), or ERR_NO_SPACE. */
struct intake *intake_begin(struct call *call, bool is_checked, int64_t bytes, struct err *err);
/* False with the error of an earlier write, which comes late. */
bool intake_add(struct intake *intake, struct str bytes, struct err *err);
uint64_t intake_bytes(const struct intake *intake); /* added so far */

/* Where bytes come from that are on this machine already. next is called on a background thread and gives a view that
 * is valid until the next call; empty: the end. free is called with the intake's end. */
struct intake_source {
    bool (*next)(void *context, struct str *piece, struct err *err);
    void (*free)(void *context);
    void *context;
};
/* Before a commit, in place of intake_add. */
void intake_take_from(struct intake *intake, const struct intake_source *source);

/* The blob becomes durable under id, then on_committed is called on the loop's thread: err NULL, or why there is none.
 * Not called when the intake was freed meanwhile. */
void intake_commit(struct intake *intake, const char *id, void (*on_committed)(void *context, const struct err *err),
                   void *context);
/* Of a committed intake: id, bytes, hash and time of the row, and what the check found when its purpose is fine-tune.
 * The texts live as long as the intake. */
void intake_describe(const struct intake *intake, struct store_file *file);
/* Another id for a committed blob; blocks for a sync of the folder. */
bool intake_rename(struct intake *intake, const char *id, struct err *err);
/* The blob has its row, or may turn out to have it (store_is_in_doubt). */
void intake_keep(struct intake *intake);
void intake_free(struct intake *intake); /* in any state; NULL is fine */
