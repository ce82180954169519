#include "store/state.h"

static const struct {
    const char *name, *status;
} states[] = {
#define STATE_ROW(name, status) {#name, status},
    JOB_STATES(STATE_ROW)
#undef STATE_ROW
};

static const struct {
    enum job_state from, to;
} moves[] = {
#define MOVE_ROW(from, to) {JOB_STATE_##from, JOB_STATE_##to},
    JOB_MOVES(MOVE_ROW)
#undef MOVE_ROW
};

static const char *const wants[] = {
#define WANT_ROW(name) #name,
    JOB_WANTS(WANT_ROW)
#undef WANT_ROW
};

const char *job_state_name(enum job_state state)
{
    return states[state].name;
}

const char *job_state_status(enum job_state state)
{
    return states[state].status;
}

enum job_state job_state_of(struct str name)
{
    enum job_state state = 0;

    while (state < JOB_STATE_COUNT && !str_is(name, states[state].name))
        state++;
    return state;
}

bool job_state_is_final(enum job_state state)
{
    for (size_t i = 0; i < sizeof moves / sizeof *moves; i++)
        if (moves[i].from == state)
            return false;
    return true;
}

bool job_state_may_move(enum job_state from, enum job_state to)
{
    for (size_t i = 0; i < sizeof moves / sizeof *moves; i++)
        if (moves[i].from == from && moves[i].to == to)
            return true;
    return false;
}

const char *job_want_name(enum job_want want)
{
    return wants[want];
}

enum job_want job_want_of(struct str name)
{
    enum job_want want = 0;

    while (want < JOB_WANT_COUNT && !str_is(name, wants[want]))
        want++;
    return want;
}
