#include "base/hyperparameters.h"

const char *method_name(enum method method)
{
    static const char *const names[] = {
#define METHOD_NAME(name, text) text,
        METHODS(METHOD_NAME)
#undef METHOD_NAME
    };
    return names[method];
}

bool method_find(struct str name, enum method *method)
{
    for (int i = 0; i < METHOD_COUNT; i++) {
        if (str_is(name, method_name((enum method)i))) {
            *method = (enum method)i;
            return true;
        }
    }
    return false;
}

double hyperparameters_auto_rate(enum method method, bool has_lora)
{
    if (method == METHOD_DPO)
        return has_lora ? 1e-5 : 1e-6;
    return has_lora ? 2e-4 : 1e-5;
}

void hyperparameters_settle(struct hyperparameters *values, enum method method,
                            const struct hyperparameters_given *given)
{
    if (method != METHOD_DPO)
        return;
    if (!given->learning_rate)
        values->learning_rate = hyperparameters_auto_rate(method, values->lora);
    if (!given->packing)
        values->packing = false;
}

const char *hyperparameters_conflict(const struct hyperparameters *values, enum method method,
                                     const struct hyperparameters_given *given, const char **name)
{
    if (method != METHOD_DPO && given->beta) {
        *name = "beta";
        return "is of method dpo alone";
    }
    if (method == METHOD_DPO && values->packing) {
        *name = "packing";
        return "must be false with method dpo: a row is a pair of completions";
    }
    if (method == METHOD_DPO && values->lora_dropout > 0) {
        *name = "lora_dropout";
        return "must be 0 with method dpo: the model is measured against its reference without noise";
    }
    return NULL;
}
