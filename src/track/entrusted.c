#include "track/entrusted.h"

#include "os/clock.h"

#include <stdio.h>
#include <string.h>

struct giver {
    struct json_writer *w;
    struct store *store;
    struct tenant tenant;
    struct arena *arena;
    struct store_texts given; /* members */
};

static bool has(const struct giver *giver, struct str member)
{
    for (size_t i = 0; i < giver->given.count; i++)
        if (str_is(member, giver->given.at[i]))
            return true;
    return false;
}

static bool give(struct giver *giver, const char *owner, const char *name, const char *member, struct err *err)
{
    struct secret value = {0};
    bool ok = store_secret_get(giver->store, &giver->tenant, owner, name, &value, err);

    if (ok) {
        json_put_str(giver->w, member, secret_reveal(&value));
        giver->given.at[giver->given.count++] = member;
    }
    secret_wipe(&value);
    return ok;
}

static bool give_own(struct giver *giver, const struct store_delivery *delivery, struct err *err)
{
    const char *prefix = arena_printf(giver->arena, "integrations.%lld.", (long long)delivery->position);
    struct store_secret_list secrets;
    bool ok = store_secret_list(giver->store, &giver->tenant, delivery->job_id, giver->arena, &secrets, err);

    giver->given.at = arena_new_array(giver->arena, const char *, 2 * STORE_SECRETS_MAX);
    for (size_t i = 0; ok && i < secrets.count; i++)
        if (str_starts(str_of(secrets.at[i].name), str_of(prefix)))
            ok = give(giver, delivery->job_id, secrets.at[i].name, strrchr(secrets.at[i].name, '.') + 1, err);
    return ok;
}

static bool give_named(struct giver *giver, const struct store_delivery *delivery, struct err *err)
{
    const struct json *config = json_parse(giver->arena, str_of(delivery->config_json), NULL, err);
    bool ok = config != NULL;

    json_each(item, config) {
        struct str member = item->key;

        if (!ok || !str_ends(member, STR("_secret")) || item->type != JSON_STRING)
            continue;
        member.len -= strlen("_secret");
        if (!has(giver, member) && giver->given.count < STORE_SECRETS_MAX)
            ok = give(giver, "", str_copy(giver->arena, item->string), str_copy(giver->arena, member), err);
    }
    return ok;
}

/* None of that name is fine: the service may want none. */
static bool give_usual(struct giver *giver, const struct store_delivery *delivery, struct err *err)
{
    const char *member, *name = store_delivery_project_secret(delivery->kind, &member);
    struct err problem = {0};

    if (!name || has(giver, str_of(member)) || give(giver, "", name, member, &problem) ||
        problem.code == ERR_NOT_FOUND)
        return true;
    return err_set(err, problem.code, "%s", problem.text);
}

static bool give_signing(struct giver *giver, const struct store_webhook *webhook, struct err *err)
{
    giver->given.at = arena_new_array(giver->arena, const char *, 2);
    return give(giver, webhook->id, STORE_WEBHOOK_SECRET, STORE_WEBHOOK_SECRET, err) &&
           (webhook->old_secret_until_ms <= clock_unix_ms() ||
            give(giver, webhook->id, STORE_WEBHOOK_OLD_SECRET, STORE_WEBHOOK_OLD_SECRET, err));
}

bool entrusted_put(struct json_writer *w, struct store *store, const struct store_delivery *delivery,
                   const struct store_webhook *webhook, struct arena *arena, struct err *err)
{
    struct giver giver = {.w = w, .store = store, .arena = arena};

    snprintf(giver.tenant.organization_id, sizeof giver.tenant.organization_id, "%s", delivery->organization_id);
    snprintf(giver.tenant.project_id, sizeof giver.tenant.project_id, "%s", delivery->project_id);
    if (webhook)
        return give_signing(&giver, webhook, err);
    return give_own(&giver, delivery, err) && give_named(&giver, delivery, err) && give_usual(&giver, delivery, err);
}
