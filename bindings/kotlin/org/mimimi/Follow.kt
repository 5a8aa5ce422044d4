package org.mimimi

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

/**
 * Events as they come, unacknowledged ones first, until the client is stopped. While it is
 * collected, the client reads as its profile says. An event that was cut off comes again.
 */
fun Client.follow(): Flow<StoredEvent> = flow {
    val events = eventStream()
    try {
        var seen = 0L
        while (true) {
            val stored = events.nextEvent(seen) ?: break
            seen = stored.id
            emit(stored)
        }
    } finally {
        events.end()
        events.close()
    }
}
