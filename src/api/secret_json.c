#include "api/secret_json.h"

#include "store/secrets.h"

#include <string.h>

/* What is a secret below integrations and from_checkpoint, at whatever depth. The name and the certificate that go with
 * a password are told to nobody either. */
static const char *const secret_names[] = {"api_key", "api_token", "token",    "access_token",
                                           "secret",  "password",  "username", "certificate_file"};

/* The member and its text in the request, escapes as they were sent; then it is null. */
static void erase(struct json *member)
{
    json_each(inner, member)
        erase(inner);
    if (member->type == JSON_STRING) {
        struct str raw = json_string_raw(member);
        memory_erase(raw.at, raw.len);
        memory_erase(member->string.at, member->string.len);
    } else if (member->type == JSON_NUMBER) {
        memory_erase(member->string.at, member->string.len);
    }
    *member = (struct json){.type = JSON_NULL, .key = member->key, .next = member->next};
}

bool secret_json_take(struct json *member, struct secret *value)
{
    bool ok = json_has_type(member, JSON_STRING) && member->string.len > 0 &&
              member->string.len <= STORE_SECRET_BYTES_MAX && !memchr(member->string.at, 0, member->string.len);

    if (ok)
        secret_set(value, member->string);
    if (member)
        erase(member);
    return ok;
}

struct taker {
    struct arena *arena;
    struct job_secrets *secrets;
    const char *wrong;
};

static bool is_secret_name(struct str name)
{
    for (size_t i = 0; i < sizeof secret_names / sizeof *secret_names; i++)
        if (str_is(name, secret_names[i]))
            return true;
    return false;
}

static void take(struct taker *t, struct json *member, const char *name)
{
    struct secret value = {0};

    if (member->type == JSON_NULL)
        return;
    if (!secret_json_take(member, &value)) {
        t->wrong =
            arena_printf(t->arena, "%s must be a text of 1 to %d bytes without NUL", name, STORE_SECRET_BYTES_MAX);
    } else if (t->secrets->count == JOB_SECRETS_MAX) {
        t->wrong = arena_printf(t->arena, "a job takes at most %d secrets", JOB_SECRETS_MAX);
        secret_wipe(&value);
    } else {
        t->secrets->at[t->secrets->count++] = (struct job_secret){name, value};
    }
}

static void take_below(struct taker *t, struct json *node, const char *path)
{
    size_t index = 0;

    json_each(item, node) {
        const char *name = node->type == JSON_OBJECT
                               ? arena_printf(t->arena, "%s.%.*s", path, STR_ARG(str_clip(item->key, 64)))
                               : arena_printf(t->arena, "%s.%zu", path, index++);

        if (node->type == JSON_OBJECT && is_secret_name(item->key))
            take(t, item, name);
        else
            take_below(t, item, name);
    }
}

static void take_places(struct taker *t, struct json *object, const char *prefix)
{
    json_each(item, object) {
        if (str_is(item->key, "integrations") || str_is(item->key, "from_checkpoint"))
            take_below(t, item, arena_printf(t->arena, "%s%.*s", prefix, STR_ARG(item->key)));
        else if (str_is(item->key, "extra_body") && !*prefix)
            take_places(t, item, "extra_body.");
    }
}

bool job_secrets_take(struct arena *arena, struct json *body, struct job_secrets *secrets, const char **wrong)
{
    struct taker t = {.arena = arena, .secrets = secrets};

    *secrets = (struct job_secrets){arena_new_array(arena, struct job_secret, JOB_SECRETS_MAX), 0};
    if (body->type == JSON_OBJECT)
        take_places(&t, body, "");
    *wrong = t.wrong;
    return !t.wrong;
}

void job_secrets_wipe(struct job_secrets *secrets)
{
    for (size_t i = 0; i < secrets->count; i++)
        secret_wipe(&secrets->at[i].value);
    secrets->count = 0;
}
