/* hub/card.h - the model card of an export: README.md as the Hub reads it.
 *
 * Its head is what the Hub files the model under (base, library, licence); the text tells what the receipt and the job
 * know. The same job gives the same bytes, so that an export that is begun again changes nothing. What users named
 * freely does not enter it. */
#pragma once

#include "base/json.h"

struct hub_card {
    const char *repo;
    const char *base;         /* id of the base model; it is named in the head only if it can be one of the Hub's */
    const char *base_licence; /* as its own card says; NULL: not known */
    bool is_adapter;
    const char *method; /* "supervised" or "dpo" */
    const struct json *hyperparameters, *metrics, *receipt; /* metrics: of the checkpoint. Absent ones may be NULL */
};
void hub_card_write(const struct hub_card *card, struct arena *arena, struct strbuf *out);

/* `license:` in the head of a model card; NULL when there is none, or none that is a licence's name. */
const char *hub_card_licence(struct arena *arena, struct str text);
