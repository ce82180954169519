/* infer/seats.h - the adapters that a worker holds beside its base, and their voices.
 *
 * An adapter is opened when a request first names its folder and stays until its room is needed by
 * another; one that a request uses is never dropped. Its voice is the base's when its folder has
 * the same tokenizer and template, or none. */
#pragma once

#include "infer/voice.h"
#include "model/adapter.h"

struct seats;
struct seat;

enum { SEAT_RANK_MAX = 128 }; /* adapters of higher ranks need a process of their own */

/* base must outlive the seats; bytes_max: of all adapters together; now: the clock of templates. */
struct seats *seats_new(struct model *base, uint64_t bytes_max, int64_t now);
void seats_free(struct seats *seats); /* NULL is fine */

/* The seat of a folder, to be given back. NULL: ERR_NO_SPACE when there may be room once another seat is given back;
 * ERR_UNSUPPORTED when the adapter needs a process of its own; other errors when it cannot be read. */
struct seat *seats_take(struct seats *seats, const char *folder, struct err *err);
void seats_give_back(struct seats *seats, struct seat *seat); /* NULL is fine */
/* Moves whenever a seat becomes free. */
uint64_t seats_change(const struct seats *seats);

const struct adapter *seat_adapter(const struct seat *seat);
uint64_t seat_number(const struct seat *seat); /* from 1 on, another for every adapter that was opened */
struct voice *seat_voice(const struct seat *seat); /* NULL: the base's */
