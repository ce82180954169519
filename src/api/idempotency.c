/* Idempotency-Key: a request that is sent again under the same key gets the answer of the first time, and nothing is
 * made twice. Handlers run on one thread, and from idempotency_begin to the answer in one go; what takes longer comes
 * before. So of many such requests at once the first to be ready makes its thing and the others find its answer. What a
 * client got wrong is forgotten and may be tried again in other words. What failed here keeps its id without an answer,
 * for it may come to light (store_is_in_doubt): the next try finds it, or makes it under the same id. */
#include "api/api_int.h"
#include "base/hash.h"
#include "os/clock.h"
#include "store/idempotency.h"

#include <string.h>

enum { KEY_CHARACTERS_MAX = 255 };

/* NULL: none was sent. Answers when it is not a key. */
static bool read_key(struct call *call, const char **key)
{
    struct str text = http_request_header(call->request, "Idempotency-Key");

    *key = NULL;
    if (!text.at)
        return true;
    if (text.len == 0 || text.len > KEY_CHARACTERS_MAX || !utf8_is_valid(text)) {
        answer_error(call, 400, "invalid_idempotency_key", NULL, "Idempotency-Key: 1 to %d characters",
                     KEY_CHARACTERS_MAX);
        return false;
    }
    *key = str_copy(call->arena, text);
    return true;
}

static void add_view(struct sha256 *hash, struct str text)
{
    uint64_t len = text.len;

    sha256_add(hash, &len, sizeof len);
    sha256_add(hash, text.at, text.len);
}

static const char *fingerprint_of(struct call *call, struct str content)
{
    char *hex = arena_alloc(call->arena, 65);
    struct sha256 hash;

    sha256_begin(&hash);
    add_view(&hash, call->request->path_text);
    add_view(&hash, content);
    sha256_end_hex(&hash, hex);
    return hex;
}

static void replay(struct call *call, const struct store_idempotency *row)
{
    struct http_header header = {STR("Idempotent-Replayed"), STR("true")};

    http_answer_bytes(call->exchange,
                      &(struct http_response){.status = (int)row->status, .headers = &header, .header_count = 1},
                      str_of(row->body));
}

bool idempotency_check(struct call *call, struct str content)
{
    if (call->is_dry_run)
        return true;
    if (!read_key(call, &call->idempotency_key))
        return false;
    if (call->idempotency_key)
        call->fingerprint = fingerprint_of(call, content);
    return idempotency_again(call);
}

bool idempotency_again(struct call *call)
{
    struct problems problems = {.arena = call->arena};
    struct store_idempotency row;
    struct err err = {0};

    if (!call->idempotency_key)
        return true;
    if (!store_idempotency_get(call->api->config.store, &call->tenant, call->idempotency_key, call->arena, &row,
                               &err)) {
        if (err.code == ERR_NOT_FOUND)
            return true;
        answer_err(call, &err, NULL);
        return false;
    }
    if (strcmp(row.fingerprint, call->fingerprint) != 0) {
        problems_add(&problems, "idempotency_key_reused", "Idempotency-Key", NULL, NULL,
                     "This Idempotency-Key came with another request before: use a new one for each request.");
        answer_problems(call, &problems);
        return false;
    }
    if (row.status == 0) {
        call->resource_id = row.resource_id;
        return true;
    }
    replay(call, &row);
    return false;
}

bool idempotency_begin(struct call *call, char id[STORE_ID_BYTES], struct err *err)
{
    struct store_idempotency row = {.key = call->idempotency_key,
                                    .fingerprint = call->fingerprint,
                                    .resource_id = id,
                                    .created_ms = clock_unix_ms()};

    if (!call->idempotency_key)
        return true;
    call->is_recorded = true;
    if (!call->resource_id)
        return store_idempotency_begin(call->api->config.store, &call->tenant, &row, err);
    strcpy(id, call->resource_id);
    return true;
}

void idempotency_end(struct call *call, int status, const char *body)
{
    struct store *store = call->api->config.store;

    if (!call->is_recorded)
        return;
    call->is_recorded = false;
    if (status < 300)
        store_idempotency_end(store, &call->tenant, call->idempotency_key, status, body, NULL);
    else if (status < 500)
        store_idempotency_drop(store, &call->tenant, call->idempotency_key, NULL);
}
