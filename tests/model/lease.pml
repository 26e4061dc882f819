/* The silence lease as Spin sees it: rules R1 to R6 and R8 of piagent/core, one key, any order.
 *
 * Nobody may act for the key while another may: that is asserted whenever a node begins to act or
 * goes on. Runs have no end: what is limited is how much is under way at one time, and how many
 * faults and releases there are. So a complete search speaks for runs of every length.
 *
 * Time is ticks. A tick may come at any moment or not for long, so each delay, each pause and each
 * stalled queue is among the runs. All timers count down and stop at 0; L and W are in ticks.
 * A node acts until its announced deadline even when it is paused: the fence is the kernel's.
 *
 *   NODES, BROKERS       every node has a connection to every broker
 *   SERIAL               a message goes to the subscribers one at a time, in any order, publishers
 *                        side by side (assumption A1); without it: to all of them at once
 *   DIRECT               (not with SERIAL) nothing waits between a node and the broker
 *   UNDER_WAY, QUEUE     capacity towards the broker, and towards each subscriber; full: it waits
 *   RENEWALS             whether an owner goes on; without, it acts for one lease
 *   GIVE_UPS             how often a node may give up in a run: release, removal, yield
 *   RESETS               how often a connection may break in a run; what was under way to the broker
 *                        is lost from some message on, the rest is read late from the old socket
 *   RESTARTS             how often a broker may come back empty in a run
 *
 * WITHOUT_... removes one rule each; tests/model/searches.py has them all.
 */
#ifndef NODES
#define NODES 2
#endif
#ifndef BROKERS
#define BROKERS 1
#endif
#ifndef L
#define L 2
#endif
#ifndef W
#define W L
#endif
#ifndef UNDER_WAY
#define UNDER_WAY 2
#endif
#ifndef QUEUE
#define QUEUE 3
#endif
#ifndef RESETS
#define RESETS 0
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif
#ifndef GIVE_UPS
#define GIVE_UPS 0
#endif
#ifdef WITHOUT_R8
#define QUORUM 1
#else
#define QUORUM (BROKERS / 2 + 1)
#endif

#define LINKS (NODES * BROKERS)
#define broker_of(l) ((l) % BROKERS)
#define link(n, b) ((n) * BROKERS + (b))

/* One node's connection to one broker, and its register of the key there (core/register.py). */
typedef Link {
  bit up;
  byte generation;              /* of the connection; with FIFO it stands for sequence numbers */
  byte wait;                    /* R1: left of W since the SUBACK */
  byte blocked[NODES];          /* R1: left of W since the last assertion of each other node */
  byte newest[NODES];           /* the newest generation heard of each other node */
  byte hold;                    /* left of the hold; survives the connection */
  bit echoed;                   /* left[0], claim[0]: the last own assertion that came back */
  byte unechoed;                /* how many are under way: 1, 2, ... with the oldest first */
  byte left[UNDER_WAY + 1];     /* left of L since it was sent */
  bit claim[UNDER_WAY + 1];     /* R1 held when it was sent, and R2 holds still */
  byte disowned;                    /* own assertions under way that were given up */
  bit yield;                    /* a yield waits for its turn */
};
Link at[LINKS];

/* One node and the key (core/key_lease.py). */
bit bids[NODES];                /* claims or owns: it asserts the key */
bit withdrawing[NODES];         /* released, but the removal of the address is not confirmed */
byte acts[NODES];               /* left until the announced deadline */

#define SOCKETS (2 * LINKS)     /* l: the present connection; LINKS + l: what the one before left */
#define YIELD 1                 /* a message: 2 * generation, and this for a yield */
chan sent[SOCKETS] = [UNDER_WAY] of { byte };
chan queue[LINKS] = [QUEUE] of { byte, byte };          /* to a subscriber: the sender, a message */
byte in_hand[SOCKETS];          /* SERIAL: the message that is being served, */
byte unserved[SOCKETS];         /* and who does not have it yet, one bit a node */
byte give_ups = 0;
byte resets = 0;
byte restarts = 0;

#ifdef IN_TURNS
byte turn = 0;
#define turn_of(b) (turn == (b))
#else
#define turn_of(b) true
#endif

/* ---- R1 ---- */

#ifdef WITHOUT_R1_SUBACK
#define waited(l) true
#else
#define waited(l) (at[l].wait == 0)
#endif
#ifdef WITHOUT_R1_SILENCE
#define silent(l) true
#elif NODES == 2
#define silent(l) (at[l].blocked[0] == 0 && at[l].blocked[1] == 0)
#else
#define silent(l) (at[l].blocked[0] == 0 && at[l].blocked[1] == 0 && at[l].blocked[2] == 0)
#endif
#define quiet(l) (at[l].up && waited(l) && silent(l))

#if BROKERS == 1
#define quiet_at_quorum(n) quiet(n)
#else
#define quiet_at_quorum(n) \
  (quiet(link(n, 0)) + quiet(link(n, 1)) + quiet(link(n, 2)) >= QUORUM)
#endif

/* ---- what a node says ---- */

#ifdef APART
#define asks(n, b) ((b) == (n) || (b) == (n) + 1)
#elif defined(TOGETHER)
#define asks(n, b) ((b) < 2)
#else
#define asks(n, b) true
#endif

#ifdef DIRECT
#if NODES == 2
#define fits(b) (len(queue[link(0, b)]) < QUEUE && len(queue[link(1, b)]) < QUEUE)
#else
#define fits(b) (len(queue[link(0, b)]) < QUEUE && len(queue[link(1, b)]) < QUEUE && \
                 len(queue[link(2, b)]) < QUEUE)
#endif
#else
#define fits(b) true
#endif
#define room(l) (at[l].up && len(sent[l]) < UNDER_WAY && fits(broker_of(l)))

/* An owner speaks everywhere; a claimer where it may begin, or has begun and not lost. */
#define begins(l) (quiet(l) && !at[l].echoed && at[l].unechoed == 0)
#define has_claim(l) (at[l].claim[0] || at[l].claim[1] || at[l].claim[UNDER_WAY])
#ifdef RENEWALS
#define speaks(n, l) (acts[n] > 0 || at[l].hold > 0 || begins(l) || has_claim(l))
#else
#define speaks(n, l) (at[l].hold == 0 && (begins(l) || (has_claim(l) && at[l].unechoed == 0)))
#endif
#define may_assert(n, l) \
  (bids[n] && asks(n, broker_of(l)) && room(l) && at[l].unechoed < UNDER_WAY && speaks(n, l))

inline publish(n, l, what) {
#ifdef DIRECT
  to = 0;
  do
  :: to < NODES ->
     if
     :: at[link(to, broker_of(l))].up -> queue[link(to, broker_of(l))]!n, what
     :: else
     fi;
     to++
  :: else -> break
  od;
  to = 0
#else
  sent[l]!what
#endif
}

inline assert_key(n, l) {
  at[l].unechoed++;
  at[l].left[at[l].unechoed] = L;
  at[l].claim[at[l].unechoed] = quiet(l);
  at[l].yield = 0;                      /* a message that asserts the key does not yield it */
  publish(n, l, 2 * at[l].generation)
}

/* ---- what it hears ---- */

inline close_windows(l) {
  i = 0;
  do
  :: i <= UNDER_WAY -> at[l].claim[i] = 0; i++
  :: else -> break
  od;
  i = 0
}

/* Something older than what was heard of the sender counts for nothing. */
inline hear_other(l, from, what) {
  if
  :: what / 2 >= at[l].newest[from] ->
     at[l].newest[from] = what / 2;
     if
     :: what % 2 == YIELD ->
        at[l].blocked[from] = 0
#ifdef WITHOUT_R6_WAIT
        ; at[l].wait = 0
#endif
     :: else ->
        at[l].blocked[from] = W
#ifndef WITHOUT_R2
        ; close_windows(l)
#endif
     fi
  :: else
#ifdef WITHOUT_R6_ORDER
     ; if
     :: what % 2 == YIELD -> at[l].blocked[from] = 0
     :: else
     fi
#endif
  fi
}

#ifdef WITHOUT_R5
bit held[LINKS];                /* since the node bids, whether it runs still or not */
#define running(l) held[l]
#else
#define running(l) (at[l].hold > 0)
#endif

/* An own assertion came back: it certifies the one before it (R3), from its sending on (R4). */
inline hear_own(n, l) {
#ifdef WITHOUT_R3
  at[l].left[0] = at[l].left[1];
  at[l].claim[0] = at[l].claim[1];
  at[l].echoed = 1;
#endif
#ifdef WITHOUT_R4
  if
  :: at[l].echoed -> at[l].left[0] = L
  :: else
  fi;
#endif
  if
  :: at[l].echoed && at[l].left[0] > at[l].hold && (running(l) || at[l].claim[0]) ->
     at[l].hold = at[l].left[0]
#ifdef WITHOUT_R5
     ; held[l] = 1
#endif
  :: else
  fi;
  at[l].echoed = 1;
  at[l].unechoed--;
  i = 0;
  do
  :: i < UNDER_WAY ->
     at[l].left[i] = at[l].left[i + 1];
     at[l].claim[i] = at[l].claim[i + 1];
     i++
  :: else -> break
  od;
  at[l].left[UNDER_WAY] = 0;
  at[l].claim[UNDER_WAY] = 0;
  i = 0;
  act(n)
#ifdef AT_ONCE
  ; if
  :: at[l].hold == 0 && at[l].claim[0] && may_assert(n, l) -> assert_key(n, l)
  :: else
  fi
#endif
}

/* R8: an owner acts until the end of what a majority of its holds covers; never two of them. */
inline act(n) {
  end = L;
  do
  :: end > acts[n] ->
     i = 0; count = 0;
     do
     :: i < BROKERS -> count = count + (at[link(n, i)].hold >= end); i++
     :: else -> break
     od;
     if
     :: count >= QUORUM -> acts[n] = end
     :: else -> end--
     fi
  :: else -> break
  od;
  i = 0; count = 0; end = 0;
  do
  :: i < NODES -> assert(i == n || acts[n] == 0 || acts[i] == 0); i++
  :: else -> break
  od;
  i = 0
}

/* ---- connections ---- */

/* It is not to have what socket s has in hand, or has it. */
inline unserve(s, who) {
  unserved[s] = unserved[s] & ~(1 << (who));
  if
  :: unserved[s] == 0 -> in_hand[s] = 0
  :: else
  fi
}

/* What was said and heard on it proves nothing any more; the hold remains. */
inline deafen(l) {
  at[l].up = 0; at[l].wait = 0; at[l].echoed = 0; at[l].unechoed = 0; at[l].disowned = 0;
  at[l].yield = 0;
  close_windows(l);
  do
  :: i <= UNDER_WAY -> at[l].left[i] = 0; i++
  :: else -> break
  od;
  i = 0;
  do
  :: i < NODES -> at[l].blocked[i] = 0; at[l].newest[i] = 0; i++
  :: else -> break
  od;
  i = 0;
  do
  :: queue[l]?_, _
  :: empty(queue[l]) -> break
  od;
  do
  :: i < NODES ->
     unserve(link(i, broker_of(l)), l / BROKERS);
     unserve(LINKS + link(i, broker_of(l)), l / BROKERS);
     i++
  :: else -> break
  od;
  i = 0
}

/* The stream breaks off somewhere; what the broker has read it serves to the end. */
inline break_off(l) {
  in_hand[LINKS + l] = in_hand[l]; in_hand[l] = 0;
  unserved[LINKS + l] = unserved[l]; unserved[l] = 0;
  do
  :: nempty(sent[l]) -> sent[l]?what; sent[LINKS + l]!what
  :: true -> break
  od;
  do
  :: sent[l]?_
  :: empty(sent[l]) -> break
  od;
  what = 0
}

proctype connection(byte n; byte l) {
  byte from, what, i, to, count, end;
end_connection:
  do
  :: d_step { turn_of(broker_of(l)) && !at[l].up -> at[l].up = 1; at[l].wait = W }
  :: d_step { turn_of(broker_of(l)) && may_assert(n, l) -> assert_key(n, l) }
  :: atomic { turn_of(broker_of(l)) && nempty(queue[l]) ->
       queue[l]?from, what;
       if
       :: from != n -> hear_other(l, from, what)
       :: else ->
          if
          :: what % 2 == YIELD || what / 2 < at[l].generation
          :: else ->
             if
             :: at[l].disowned > 0 -> at[l].disowned--
             :: else -> hear_own(n, l)
             fi
          fi
       fi;
       from = 0; what = 0 }
#if GIVE_UPS > 0
  :: d_step { at[l].yield && !bids[n] && room(l) ->
       at[l].yield = 0;
       publish(n, l, 2 * at[l].generation + YIELD) }
#endif
#if RESETS > 0
  :: atomic { at[l].up && resets < RESETS && empty(sent[LINKS + l]) && unserved[LINKS + l] == 0 ->
       resets++;
       break_off(l);
       at[l].generation++;
       deafen(l) }
#endif
  od
}

/* ---- the node ---- */

inline give_up(n) {
  bids[n] = 0;
  b = 0;
  do
  :: b < BROKERS ->
     at[link(n, b)].hold = 0;
#ifdef WITHOUT_R5
     held[link(n, b)] = 0;
#endif
     at[link(n, b)].disowned = at[link(n, b)].disowned + at[link(n, b)].unechoed;
     at[link(n, b)].unechoed = 0;
     at[link(n, b)].echoed = 0;
     close_windows(link(n, b));
     do
     :: i <= UNDER_WAY -> at[link(n, b)].left[i] = 0; i++
     :: else -> break
     od;
     i = 0; b++
  :: else -> break
  od;
  b = 0
}

inline yield_everywhere(n) {
  b = 0;
  do
  :: b < BROKERS -> at[link(n, b)].yield = at[link(n, b)].up; b++
  :: else -> break
  od;
  b = 0
}

proctype node(byte n) {
  byte b, i;
end_node:
  do
  :: d_step { turn_of(0) && !bids[n] && quiet_at_quorum(n) && (!withdrawing[n] || acts[n] == 0) -> bids[n] = 1 }
#if GIVE_UPS > 0
  /* Lost, or not wanted any more. An owner's address is there until its removal is confirmed. */
  :: d_step { bids[n] && give_ups < GIVE_UPS ->
       give_ups++;
       give_up(n);
       if
#ifndef WITHOUT_R6_REMOVAL
       :: acts[n] > 0 || withdrawing[n] -> withdrawing[n] = 1
#endif
       :: else -> yield_everywhere(n)
       fi }
  :: d_step { withdrawing[n] && !bids[n] ->
       withdrawing[n] = 0;
       acts[n] = 0;
       yield_everywhere(n) }
#endif
  od
}

/* ---- the broker ---- */

#if NODES == 2
#define all_fit(b) (nfull(queue[link(0, b)]) && nfull(queue[link(1, b)]))
#else
#define all_fit(b) (nfull(queue[link(0, b)]) && nfull(queue[link(1, b)]) && nfull(queue[link(2, b)]))
#endif

/* Reads one socket of node n: the present connection, or what the one before left. */
proctype reader(byte s; byte n) {
  byte what, i;
end_reader:
  do
#ifdef SERIAL
  :: d_step { turn_of(broker_of(s)) && unserved[s] == 0 && nempty(sent[s]) ->
       sent[s]?what;
       do
       :: i < NODES ->
          if
          :: at[link(i, broker_of(s))].up -> unserved[s] = unserved[s] | (1 << i); in_hand[s] = what
          :: else
          fi;
          i++
       :: else -> break
       od;
       i = 0; what = 0 }
  :: atomic { turn_of(broker_of(s)) && unserved[s] > 0 ->
       do
       :: i < NODES && (unserved[s] & (1 << i)) && nfull(queue[link(i, broker_of(s))]) -> break
       :: i < NODES -> i++
       :: i == NODES -> break
       od;
       if
       :: i < NODES ->
          queue[link(i, broker_of(s))]!n, in_hand[s];
          unserve(s, i)
       :: else
       fi;
       i = 0 }
#else
  :: d_step { turn_of(broker_of(s)) && nempty(sent[s]) && all_fit(broker_of(s)) ->
       sent[s]?what;
       do
       :: i < NODES ->
          if
          :: at[link(i, broker_of(s))].up -> queue[link(i, broker_of(s))]!n, what
          :: else
          fi;
          i++
       :: else -> break
       od;
       i = 0; what = 0 }
#endif
  od
}

/* The broker comes back empty: every connection broken, everything on its way lost. */
proctype restart(byte b) {
  byte n, l, i;
end_restart:
  do
  :: d_step { restarts < RESTARTS ->
       restarts++;
       n = 0;
       do
       :: n < NODES ->
          l = link(n, b);
          deafen(l);
          do
          :: sent[l]?_
          :: empty(sent[l]) -> break
          od;
          do
          :: sent[LINKS + l]?_
          :: empty(sent[LINKS + l]) -> break
          od;
          n++
       :: else -> break
       od;
       n = 0; l = 0 }
  od
}

/* ---- time ---- */

inline down_to_0(timer) {
  if
  :: timer > 0 -> timer--
  :: else
  fi
}

proctype clock() {
  byte n, l, i;
end_clock:
  do
#ifdef IN_TURNS
  :: d_step { turn < BROKERS -> turn++ }
  :: d_step { turn == BROKERS ->
       turn = 0;
#else
  :: d_step {
#endif
       l = 0;
       do
       :: l < LINKS ->
          down_to_0(at[l].wait);
          down_to_0(at[l].hold);
          i = 0;
          do
          :: i < NODES -> down_to_0(at[l].blocked[i]); i++
          :: else -> break
          od;
          i = 0;
          do
          :: i <= UNDER_WAY ->
             down_to_0(at[l].left[i]);
             at[l].claim[i] = at[l].claim[i] && at[l].left[i] > 0;
             i++
          :: else -> break
          od;
          l++
       :: else -> break
       od;
       n = 0;
       do
       :: n < NODES -> down_to_0(acts[n]); n++
       :: else -> break
       od;
       n = 0; l = 0; i = 0 }
  od
}

init {
  byte l;
  atomic {
    do
    :: l < LINKS ->
#ifdef CONNECTED
       at[l].up = 1; at[l].wait = W;
#endif
       if
       :: l % BROKERS == 0 -> run node(l / BROKERS)
       :: else
       fi;
       run connection(l / BROKERS, l);
#ifndef DIRECT
       run reader(l, l / BROKERS);
#if RESETS > 0
       run reader(LINKS + l, l / BROKERS);
#endif
#endif
       l++
    :: else -> break
    od;
#if RESTARTS > 0
    l = 0;
    do
    :: l < BROKERS -> run restart(l); l++
    :: else -> break
    od;
#endif
    l = 0;
    run clock()
  }
}
