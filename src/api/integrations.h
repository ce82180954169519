/* api/integrations.h - "integrations" of a job's request: which services hear of it.
 *
 * Each entry has a type and an object of that name, as Nebius' API has them. What is a secret in it has left the
 * request before (api/secret_json.h), so everything read here may be stored and echoed. */
#pragma once

#include "api/problems.h"
#include "http/outgoing.h"
#include "store/deliveries.h"

enum { INTEGRATIONS_MAX = 8 };

struct integrations {
    struct store_delivery at[INTEGRATIONS_MAX]; /* kind, position, config_json */
    size_t count;
    const char *echo_json; /* NULL: there are none */
};
/* Where this server may send to, and what there is to identify with. */
struct integration_places {
    const struct outgoing_policy *origins;
    const char *wandb_url, *hub_url;
    const struct store_held *secrets; /* that the request brought: "integrations.0.wandb.api_key" */
    size_t secret_count;
    const struct store_secret_list *project_secrets;
    bool may_name_secrets; /* of the project, for a service that the request names, too: who may administer */
};
/* value may be NULL. What is wrong is gathered; a kind that has no sender is refused by name, and so is a service that
 * this server may not reach. */
void integrations_read(struct arena *arena, const struct json *value, const struct integration_places *places,
                       struct integrations *integrations, struct problems *problems);
