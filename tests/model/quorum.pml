/* Majorities over several brokers: rule R8, and R6 across them, in runs of every length.
 *
 * One step up from lease.pml. What that model shows of one register is assumed here of each: a node
 * gets a hold only while nobody else's promise runs there, and extends it only while it runs. A
 * promise is what the others have to reckon with: it lasts as long as the hold might, whether the
 * node gave it up or not, and ends early only when a yield arrives. Messages, delays and breaks are
 * in what may happen at any time: a hold may come late, be shorter, or not come at all.
 *
 *   NODES, BROKERS, L as in lease.pml; a node may give up as often as it likes.
 */
#ifndef NODES
#define NODES 3
#endif
#ifndef BROKERS
#define BROKERS 3
#endif
#ifndef L
#define L 2
#endif
#ifdef WITHOUT_R8
#define QUORUM 1
#else
#define QUORUM (BROKERS / 2 + 1)
#endif

#define LINKS (NODES * BROKERS)
#define link(n, b) ((n) * BROKERS + (b))

bit bids[NODES];                /* claims or owns */
bit withdrawing[NODES];         /* released, but the removal of the address is not confirmed */
byte acts[NODES];               /* left until the announced deadline */
byte hold[LINKS];               /* left of what the node believes */
byte promise[LINKS];            /* left of what the others must respect; never less than the hold */
bit yield[LINKS];               /* on its way; it may get lost */

/* R8: an owner acts until the end of what a majority of its holds covers; never two of them. */
inline act(n) {
  end = L;
  do
  :: end > acts[n] ->
     i = 0; count = 0;
     do
     :: i < BROKERS -> count = count + (hold[link(n, i)] >= end); i++
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

/* others = 0: nobody else's promise runs at broker b. */
inline look(n, b) {
  others = 0; i = 0;
  do
  :: i < NODES ->
     if
     :: i != n -> others = others | promise[link(i, b)]
     :: else
     fi;
     i++
  :: else -> break
  od;
  i = 0
}

inline certify(n, b) {
  look(n, b);
  if
  :: hold[link(n, b)] > 0 || others == 0 ->
     others = 0;
     end = 1;
     do                         /* sent now, or some time ago */
     :: end < L -> end++
     :: true -> break
     od;
     if
     :: end > hold[link(n, b)] -> hold[link(n, b)] = end
     :: else
     fi;
     if
     :: end > promise[link(n, b)] -> promise[link(n, b)] = end
     :: else
     fi;
     yield[link(n, b)] = 0;
     act(n)
  :: else -> others = 0
  fi;
  end = 0
}

inline yield_everywhere(n) {
  b = 0;
  do
  :: b < BROKERS -> yield[link(n, b)] = (promise[link(n, b)] > 0); b++
  :: else -> break
  od
}

proctype node(byte n) {
  byte b, i, others, end, count;
end_node:
  do
  :: d_step { !bids[n] && (!withdrawing[n] || acts[n] == 0) -> bids[n] = 1 }
  :: atomic { bids[n] ->
       do
       :: b < BROKERS - 1 -> b++
       :: true -> break
       od;
       certify(n, b);
       b = 0 }
  :: d_step { bids[n] ->
       bids[n] = 0;
       do
       :: b < BROKERS -> hold[link(n, b)] = 0; b++
       :: else -> break
       od;
       if
#ifndef WITHOUT_R6_REMOVAL
       :: acts[n] > 0 || withdrawing[n] -> withdrawing[n] = 1
#endif
       :: else -> yield_everywhere(n)
       fi;
       b = 0 }
  :: d_step { withdrawing[n] && !bids[n] ->
       withdrawing[n] = 0;
       acts[n] = 0;
       yield_everywhere(n);
       b = 0 }
  od
}

/* A yield arrives. */
proctype broker(byte b) {
  byte i;
end_broker:
  do
  :: atomic { true ->
       do
       :: i < NODES - 1 -> i++
       :: true -> break
       od;
       if
       :: yield[link(i, b)] -> yield[link(i, b)] = 0; promise[link(i, b)] = 0
       :: else
       fi;
       i = 0 }
  od
}

inline down_to_0(timer) {
  if
  :: timer > 0 -> timer--
  :: else
  fi
}

proctype clock() {
  byte l;
end_clock:
  do
  :: d_step {
       do
       :: l < LINKS ->
          down_to_0(hold[l]);
          down_to_0(promise[l]);
          yield[l] = yield[l] && promise[l] > 0;
          l++
       :: else -> break
       od;
       l = 0;
       do
       :: l < NODES -> down_to_0(acts[l]); l++
       :: else -> break
       od;
       l = 0 }
  od
}

init {
  byte i;
  atomic {
    do
    :: i < NODES -> run node(i); i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < BROKERS -> run broker(i); i++
    :: else -> break
    od;
    i = 0;
    run clock()
  }
}
