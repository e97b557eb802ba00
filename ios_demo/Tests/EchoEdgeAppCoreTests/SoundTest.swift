import EchoEdgeCore
import XCTest

@testable import EchoEdgeAppCore

final class SoundTest: XCTestCase {
    func testPiecesOfEveryFormBecomeOneSound() throws {
        var captured = CapturedSound()
        try captured.format(channels: 2, rate: 44_100)
        try [Float(0.1), 0.2, 0.3, 0.4].withUnsafeBufferPointer { try captured.interleaved($0) }
        try [Float(-1), 0.5].withUnsafeBufferPointer { try captured.interleaved($0) }
        let left: [Float] = [1, 2]
        let right: [Float] = [3, 4, 5]
        try left.withUnsafeBufferPointer { left in try right.withUnsafeBufferPointer { try captured.apart([left, $0]) } }
        try captured.format(channels: 2, rate: 44_100.2)
        let sound = try captured.sound()
        XCTAssertEqual(sound.samples, [0.1, 0.2, 0.3, 0.4, -1, 0.5, 1, 3, 2, 4])
        XCTAssertEqual([sound.channels, sound.rate, sound.length], [2, 44_100, 5])
        XCTAssertEqual(captured.seconds, 5.0 / 44_100)
    }

    func testWhatCannotBeASound() throws {
        var captured = CapturedSound(longest: 1)
        XCTAssertThrowsError(try captured.sound())
        XCTAssertThrowsError(try [Float(1)].withUnsafeBufferPointer { try captured.interleaved($0) }, "before its format")
        XCTAssertThrowsError(try captured.format(channels: 0, rate: 16_000))
        XCTAssertThrowsError(try captured.format(channels: 1, rate: .nan))
        try captured.format(channels: 1, rate: 4)
        try [Float](repeating: 0, count: 4).withUnsafeBufferPointer { try captured.interleaved($0) }
        XCTAssertThrowsError(try [Float(0)].withUnsafeBufferPointer { try captured.interleaved($0) }, "longer than a second")
        XCTAssertThrowsError(try captured.format(channels: 2, rate: 4), "another format")
        XCTAssertThrowsError(try [Float(0)].withUnsafeBufferPointer { try captured.apart([$0, $0]) }, "another number of channels")
    }

    func testBytesForEncodersAreThoseThatWavFilesHold() throws {
        let values: [Float] = [0, 0.5, -1, 1, 2, -0.00001]
        let pcm = FilmPlan.pcm(values[...])
        XCTAssertEqual(pcm.count, 12)
        let back = try Wav.parse(WavBytes.of(pcm, rate: 16_000))
        XCTAssertEqual(back.rate, 16_000)
        for (found, value) in zip(back.samples, values) { XCTAssertEqual(found, min(max(value, -1), 1), accuracy: 1.0 / 16_384) }
        XCTAssertEqual(FilmPlan.pcm(values[1..<2]), [0x00, 0x40])
    }

    func testDrawnPicturesAreMattedAsThoseOfFiles() throws {
        // One row of three pixels and four bytes of padding: opaque, half seen (alpha multiplied in), not there.
        let bytes: [UInt8] = [10, 20, 30, 255, 50, 100, 25, 128, 0, 0, 0, 0, 9, 9, 9, 9]
        let drawn = try Drawn.pixels(bytes, width: 3, height: 1, rowBytes: 16)
        let straight = try Pixels(height: 1, width: 3, channels: 4, [10, 20, 30, 255, 100, 199, 50, 128, 0, 0, 0, 0])
        XCTAssertEqual(drawn.bytes, Pictures.matte(straight).bytes)
        XCTAssertEqual(Array(drawn.bytes.suffix(3)), [128, 128, 128])
        XCTAssertThrowsError(try Drawn.pixels(bytes, width: 3, height: 2, rowBytes: 16))
        XCTAssertThrowsError(try Drawn.pixels(bytes, width: 5, height: 1, rowBytes: 16))
    }

    func testPhotographsAreDecodedNoLargerThanNeeded() {
        XCTAssertEqual(Drawn.longestSide(width: 4032, height: 3024, clipWidth: 256, clipHeight: 256), 683)
        XCTAssertEqual(Drawn.longestSide(width: 400, height: 300, clipWidth: 256, clipHeight: 256), 400)
        let portrait = Drawn.longestSide(width: 1000, height: 8000, clipWidth: 256, clipHeight: 256)
        XCTAssertGreaterThanOrEqual(portrait * 1000 / 8000, 511)
    }

    func testAFilmIsShownWhileItIsMade() {
        var playback = Playback(fps: 10, total: 20)
        XCTAssertNil(playback.shown(0))
        playback.frame(1)
        XCTAssertEqual(playback.shown(1), 0)
        XCTAssertFalse(playback.mayBegin(1))
        for number in 1..<10 { playback.frame(1 + Double(number) * 0.2) }  // half as fast as life
        XCTAssertFalse(playback.mayBegin(2.8), "it would run out of frames")
        for number in 10..<16 { playback.frame(1 + Double(number) * 0.2) }
        XCTAssertTrue(playback.mayBegin(4.0))
        playback.begin(4.0)
        XCTAssertFalse(playback.mayBegin(4.1), "it began twice")
        XCTAssertEqual(playback.shown(4.55), 5)
        XCTAssertEqual(playback.shown(6.0), 15, "a frame that is not there")
        XCTAssertEqual(playback.held, 0.4, accuracy: 1e-9)
        XCTAssertFalse(playback.ended(9))
        for number in 16..<20 { playback.frame(6 + Double(number - 16) * 0.01) }
        XCTAssertEqual(playback.shown(6.05), 16)
        XCTAssertTrue(playback.ended(7))
        playback.rewind()
        XCTAssertTrue(playback.mayBegin(8) && playback.held == 0)
    }

    func testTheSecondPlaneOfAnEncoderTakesTurns() throws {
        let yuv = try Film.yuv(Pixels(height: 2, width: 4, channels: 3, [UInt8](stride(from: 0, to: 240, by: 10))))
        XCTAssertEqual(yuv.uv, [yuv.u[0], yuv.v[0], yuv.u[1], yuv.v[1]])
        XCTAssertNotEqual(yuv.uv, yuv.u + yuv.v)
    }

    func testFilms() {
        XCTAssertEqual(FilmPlan.videoBits(width: 16, height: 16, fps: 25), 500_000)
        XCTAssertEqual(FilmPlan.videoBits(width: 512, height: 512, fps: 25), 1_638_400)
        let zone = TimeZone(identifier: "UTC") ?? .current
        XCTAssertEqual(
            FilmPlan.name("../a b.echoedge", Date(timeIntervalSince1970: 0), zone: zone), "a-b 1970-01-01 00.00.00.mp4")
        XCTAssertTrue(FilmPlan.name("...", Date(), zone: zone).hasPrefix("film "))
        let films = (0..<5).map { (url: URL(fileURLWithPath: "/\($0)"), made: Date(timeIntervalSince1970: Double($0))) }
        XCTAssertEqual(FilmPlan.tooMany(films, keep: 3).map(\.path), ["/1", "/0"])
    }
}
