/* model/state_copy.h - a recovery state that is written while a device goes on with the next steps.
 *
 * One copy has memory of the host for one state. `begin` takes the state as it is now, beside what is queued next, and
 * begins its file (that of checkpoint_write_state); what changes the state is queued behind `hold`. Each `write` writes
 * one of the `left` tensors, `end` behind the last syncs the file. Then it may begin again. */
#pragma once

#include "model/checkpoint.h"

struct state_copy;
/* NULL: the model lies with the processor, or the host has no room: a quarter of its memory at most. */
struct state_copy *state_copy_new(struct model *model);
uint64_t state_copy_bytes(const struct plan *plan); /* that it takes beside a device; 0: none */
bool state_copy_begin(struct state_copy *copy, const char *path, struct err *err);
void state_copy_hold(struct state_copy *copy); /* NULL is fine */
bool state_copy_write(struct state_copy *copy, struct err *err);
int state_copy_left(const struct state_copy *copy);
bool state_copy_is_device_busy(const struct state_copy *copy);
bool state_copy_end(struct state_copy *copy, uint64_t *bytes, char sha256[65], struct err *err);
void state_copy_abort(struct state_copy *copy); /* of a file that is not ended; else nothing */
void state_copy_free(struct state_copy *copy);  /* before its model; NULL is fine */
