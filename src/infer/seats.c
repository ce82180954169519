#include "infer/seats.h"

#include <stdlib.h>
#include <string.h>

struct seat {
    char *folder;
    struct adapter *adapter;
    struct voice *voice; /* NULL: the base's */
    int user_count;
    uint64_t used_at;    /* on the seats' clock */
    uint64_t number;
    struct seat *next;
};

struct seats {
    struct model *base;
    uint64_t bytes_max, bytes, clock, change, opened_count;
    int64_t now;
    struct seat *list;
};

struct seats *seats_new(struct model *base, uint64_t bytes_max, int64_t now)
{
    struct seats *seats = mem_alloc_zero(1, sizeof *seats);

    *seats = (struct seats){.base = base, .bytes_max = bytes_max, .now = now};
    return seats;
}

static void free_seat(struct seat *seat)
{
    adapter_close(seat->adapter);
    voice_close(seat->voice);
    free(seat->folder);
    free(seat);
}

static void drop(struct seats *seats, struct seat *seat)
{
    struct seat **at = &seats->list;

    while (*at != seat)
        at = &(*at)->next;
    *at = seat->next;
    seats->bytes -= adapter_bytes(seat->adapter);
    free_seat(seat);
}

void seats_free(struct seats *seats)
{
    if (!seats)
        return;
    while (seats->list)
        drop(seats, seats->list);
    free(seats);
}

static struct seat *least_recent(const struct seats *seats)
{
    struct seat *found = NULL;

    for (struct seat *seat = seats->list; seat; seat = seat->next)
        if (seat->user_count == 0 && (!found || seat->used_at < found->used_at))
            found = seat;
    return found;
}

static bool make_room(struct seats *seats, uint64_t bytes, struct err *err)
{
    struct seat *seat;

    if (bytes > seats->bytes_max)
        return err_set(err, ERR_UNSUPPORTED, "an adapter of %llu bytes needs a process of its own",
                       (unsigned long long)bytes);
    while (seats->bytes + bytes > seats->bytes_max) {
        seat = least_recent(seats);
        if (!seat)
            return err_set(err, ERR_NO_SPACE, "all adapters in memory are in use");
        drop(seats, seat);
    }
    return true;
}

/* A voice that does not open is the base's, as in a folder that has none. */
static struct voice *open_voice(const struct seats *seats, const char *folder)
{
    const struct model_config *config = model_config(seats->base);
    const char *base = model_folder(seats->base);

    if (!voice_is_own(folder, base))
        return NULL;
    return voice_open(folder, base, config->eos_ids, config->eos_count, seats->now, NULL);
}

static struct seat *open_seat(struct seats *seats, const char *folder, struct err *err)
{
    struct seat *seat;
    struct adapter *adapter;

    if (!adapter_open(&adapter, seats->base, folder, err))
        return NULL;
    if (!make_room(seats, adapter_bytes(adapter), err)) {
        adapter_close(adapter);
        return NULL;
    }
    seat = mem_alloc_zero(1, sizeof *seat);
    *seat = (struct seat){.folder = mem_copy_text(folder), .adapter = adapter, .voice = open_voice(seats, folder),
                          .number = ++seats->opened_count, .next = seats->list};
    seats->list = seat;
    seats->bytes += adapter_bytes(adapter);
    return seat;
}

struct seat *seats_take(struct seats *seats, const char *folder, struct err *err)
{
    struct seat *seat = seats->list;

    while (seat && strcmp(seat->folder, folder) != 0)
        seat = seat->next;
    if (!seat)
        seat = open_seat(seats, folder, err);
    if (seat) {
        seat->user_count++;
        seat->used_at = ++seats->clock;
    }
    return seat;
}

void seats_give_back(struct seats *seats, struct seat *seat)
{
    if (seat && --seat->user_count == 0)
        seats->change++;
}

uint64_t seats_change(const struct seats *seats)
{
    return seats->change;
}

const struct adapter *seat_adapter(const struct seat *seat)
{
    return seat->adapter;
}

uint64_t seat_number(const struct seat *seat)
{
    return seat->number;
}

struct voice *seat_voice(const struct seat *seat)
{
    return seat->voice;
}
