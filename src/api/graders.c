/* Graders belong to reinforcement fine-tuning, which is not here: their routes are there to say so. */
#include "api/api_int.h"

void graders_refuse(struct call *call)
{
    struct problems problems = {.arena = call->arena};

    problems_add(&problems, "unsupported_method", "grader", NULL, NULL,
                 "graders are for reinforcement fine-tuning, which is not supported; the methods "
                 "\"supervised\" and \"dpo\" are");
    answer_problems(call, &problems);
}
