#include "compute/cpu/cpu.h"
#include "model/params.h"

#include <string.h>

enum model_profile model_profile_best(void)
{
    return cpu_path_best() >= CPU_PATH_AVX512BF16 ? PROFILE_BF16 : PROFILE_F32;
}

bool model_profile_choose(const char *name, enum model_profile *profile, struct err *err)
{
    if (strcmp(name, "auto") == 0)
        *profile = model_profile_best();
    else if (strcmp(name, "float32") == 0)
        *profile = PROFILE_F32;
    else if (strcmp(name, "bfloat16") == 0)
        *profile = PROFILE_BF16;
    else
        return err_set(err, ERR_INPUT, "dtype '%s' is not known: auto, float32 or bfloat16", name);
    return true;
}
