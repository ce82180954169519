#include "job/ledger.h"

#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

struct reservation {
    struct reservation *next;
    struct ledger_claim claim; /* its id is ours */
    char *id;
    bool asked_to_go;
};

struct job_ledger {
    int64_t capacity_bytes, used_bytes;
    struct reservation *first; /* oldest first */
    void (*on_release)(void *context);
    void *on_release_context;
};

struct job_ledger *ledger_new(int64_t capacity_bytes)
{
    struct job_ledger *ledger = mem_alloc_zero(1, sizeof *ledger);

    ledger->capacity_bytes = capacity_bytes;
    return ledger;
}

static void free_reservation(struct reservation *reservation)
{
    free(reservation->id);
    free(reservation);
}

void ledger_free(struct job_ledger *ledger)
{
    if (!ledger)
        return;
    while (ledger->first) {
        struct reservation *next = ledger->first->next;

        free_reservation(ledger->first);
        ledger->first = next;
    }
    free(ledger);
}

/* The link that points to the reservation, or to the end. */
static struct reservation **find(struct job_ledger *ledger, enum ledger_owner owner, const char *id)
{
    struct reservation **link = &ledger->first;

    while (*link && ((*link)->claim.owner != owner || strcmp((*link)->id, id) != 0))
        link = &(*link)->next;
    return link;
}

/* Asks as many chat workers as are needed, oldest first. Those asked before count as going. */
static void ask_to_go(struct job_ledger *ledger, int64_t needed_bytes)
{
    struct reservation *next;

    for (struct reservation *r = ledger->first; r; r = r->next)
        if (r->asked_to_go)
            needed_bytes -= r->claim.bytes;
    for (struct reservation *r = ledger->first; r && needed_bytes > 0; r = next) {
        next = r->next; /* r may be released in the call */
        if (r->claim.owner != LEDGER_CHAT || r->asked_to_go || !r->claim.evict)
            continue;
        needed_bytes -= r->claim.bytes;
        r->asked_to_go = true;
        r->claim.evict(r->claim.context, r->id);
    }
}

static void add(struct job_ledger *ledger, struct reservation **end, const struct ledger_claim *claim)
{
    struct reservation *reservation = mem_alloc_zero(1, sizeof *reservation);

    reservation->claim = *claim;
    reservation->id = mem_alloc(strlen(claim->id) + 1);
    strcpy(reservation->id, claim->id);
    reservation->claim.id = reservation->id;
    ledger->used_bytes += claim->bytes;
    *end = reservation;
}

bool ledger_reserve(struct job_ledger *ledger, const struct ledger_claim *claim, struct err *err)
{
    if (*find(ledger, claim->owner, claim->id))
        return true;
    if (claim->bytes > ledger->capacity_bytes)
        return err_set(err, ERR_NO_SPACE, "%lld MiB of memory are needed, this server gives at most %lld MiB",
                       (long long)(claim->bytes >> 20), (long long)(ledger->capacity_bytes >> 20));
    if (claim->bytes > ledger_free_bytes(ledger) && claim->owner == LEDGER_JOB)
        ask_to_go(ledger, claim->bytes - ledger_free_bytes(ledger));
    if (claim->bytes > ledger_free_bytes(ledger))
        return err_set(err, ERR_CONFLICT, "%lld MiB of memory are needed, %lld MiB are free now",
                       (long long)(claim->bytes >> 20), (long long)(ledger_free_bytes(ledger) >> 20));
    add(ledger, find(ledger, claim->owner, claim->id), claim);
    return true;
}

void ledger_release(struct job_ledger *ledger, enum ledger_owner owner, const char *id)
{
    struct reservation **link = find(ledger, owner, id), *gone = *link;

    if (!gone)
        return;
    *link = gone->next;
    ledger->used_bytes -= gone->claim.bytes;
    free_reservation(gone);
    if (ledger->on_release)
        ledger->on_release(ledger->on_release_context);
}

int64_t ledger_capacity(const struct job_ledger *ledger)
{
    return ledger->capacity_bytes;
}

int64_t ledger_free_bytes(const struct job_ledger *ledger)
{
    return ledger->capacity_bytes - ledger->used_bytes;
}

void ledger_on_release(struct job_ledger *ledger, void (*on_release)(void *context), void *context)
{
    ledger->on_release = on_release;
    ledger->on_release_context = context;
}
