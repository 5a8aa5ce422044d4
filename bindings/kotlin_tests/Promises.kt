// What the other languages' side promises beside the calls themselves, on a JVM.

import java.io.File
import java.util.concurrent.ConcurrentLinkedQueue
import kotlinx.coroutines.async
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.withTimeoutOrNull
import org.mimimi.Client
import org.mimimi.ClientException
import org.mimimi.Draft
import org.mimimi.Event
import org.mimimi.Options
import org.mimimi.Profile
import org.mimimi.TransferListener
import org.mimimi.UploadOptions
import org.mimimi.follow

const val IN_TIME_MS = 30_000L

suspend fun user(homes: File, name: String, stack: File, account: File): Client {
    val options = Options(profile = Profile.LIVE)
    val home = File(homes, name).path
    val client = Client.create(home, stack.readText(), account.readText(), options)
    client.registerHandle(name)
    return client
}

suspend fun inOneGroup(one: Client, other: Client) {
    one.connect("carl")
    other.checkInbox()
    other.acceptRequest(other.incomingRequests().single().id)
    while (one.contacts().isEmpty()) one.sync(1_000u)
    one.createGroup("boats")
    one.addToGroup("boats", listOf("carl"))
    other.sync(0u)
    other.acknowledge(other.events().map { it.id })
    other.bringToFront("boats")
}

suspend fun anEventThatNobodyWaitsForAnyMoreIsNotLost(doro: Client, carl: Client) {
    val events = carl.eventStream()
    check(withTimeoutOrNull(300) { events.nextEvent(0L) } == null)
    doro.sendMessage("boats", Draft.Text("ahoy"))
    val stored = withTimeout(IN_TIME_MS) { events.nextEvent(0L) }
    check((stored?.event as Event.Message).text == "ahoy")
    events.end()
    carl.acknowledge(listOf(stored.id))
}

suspend fun anErrorIsCaughtByItsTypeAndSaysWhoHasToAct(doro: Client) {
    try {
        doro.connect("nobody")
        error("nobody has that handle")
    } catch (refused: ClientException.Refused) {
        check(refused.code == "unknown-handle") { refused.code }
    }
    try {
        doro.sendMessage("no such group", Draft.Text("x"))
        error("there is no such group")
    } catch (usage: ClientException.Usage) {
        check(usage.code == "unknown-group") { usage.code }
    }
}

suspend fun aFileComesBackAsItWasAndItsListenerHearsOfIt(doro: Client, carl: Client, homes: File) {
    val content = ByteArray(600_000) { (it % 251).toByte() }
    val heard = ConcurrentLinkedQueue<ULong>()
    val listener = object : TransferListener {
        override fun transferred(bytes: ULong, of: ULong) {
            heard.add(bytes)
        }
    }
    val options = UploadOptions(name = "sail.bin")
    val uploaded = doro.uploadFrom(content, options, listener)
    check(heard.last() == content.size.toULong())
    doro.sendMessage("boats", Draft.Text("look", attachment = uploaded))
    val stored = withTimeout(IN_TIME_MS) { carl.follow().first() }
    val attachment = checkNotNull((stored.event as Event.Message).details.attachment)
    check(attachment.fileName() == "sail.bin")
    val saved = File(homes, "sail.bin")
    carl.download(attachment, saved.path)
    check(saved.readBytes().contentEquals(content))
    carl.acknowledge(listOf(stored.id))
}

suspend fun whoFollowsIsToldWhenTheClientStops(doro: Client) = coroutineScope {
    val followed = async { doro.follow().toList() }
    withTimeoutOrNull(300) { followed.await() }
    doro.stop()
    withTimeout(IN_TIME_MS) { followed.await() }
}

fun main(arguments: Array<String>) = runBlocking {
    val (stack, accountOfDoro, accountOfCarl, homes) = arguments.map(::File)
    val doro = user(homes, "doro", stack, accountOfDoro)
    val carl = user(homes, "carl", stack, accountOfCarl)
    inOneGroup(doro, carl)
    anEventThatNobodyWaitsForAnyMoreIsNotLost(doro, carl)
    anErrorIsCaughtByItsTypeAndSaysWhoHasToAct(doro)
    aFileComesBackAsItWasAndItsListenerHearsOfIt(doro, carl, homes)
    whoFollowsIsToldWhenTheClientStops(doro)
    carl.stop()
    println("all held")
}
