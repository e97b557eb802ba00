package echoedge.appcore

import java.util.concurrent.atomic.AtomicReference

/**
 * Of words that come faster than anybody can take them, the newest; none waits behind another. On any thread.
 *
 * @param later has something done a little later, on the thread that takes them.
 */
class Newest<T : Any>(private val later: (() -> Unit) -> Unit, private val take: (T) -> Unit) {
    private val waiting = AtomicReference<T?>()

    /** A word more: it is taken later, if none comes before that. */
    fun tell(word: T) {
        if (waiting.getAndSet(word) == null) later { waiting.getAndSet(null)?.let(take) }
    }

    /** What waits is out of date. */
    fun clear() = waiting.set(null)
}
