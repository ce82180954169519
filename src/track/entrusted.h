/* track/entrusted.h - the secrets that a sender gets with its delivery.
 *
 * A job's integration brings its own, sealed with the job as "integrations.<position>.<member>"; or it names a secret
 * of its project, "<member>_secret": "NAME" in its object; or it leaves that out where the service is the operator's
 * choice (not the tenant's, who could let the secret be sent anywhere) and the project has a secret of the usual name.
 * A webhook has those of its endpoint. */
#pragma once

#include "base/json.h"
#include "store/webhooks.h"
#include "store/deliveries.h"

/* Members of an object that is open. webhook NULL: an integration's delivery. */
bool entrusted_put(struct json_writer *w, struct store *store, const struct store_delivery *delivery,
                   const struct store_webhook *webhook, struct arena *arena, struct err *err);
