import EchoEdgeAppCore
import PhotosUI
import SwiftUI
import UIKit
import UniformTypeIdentifiers

/// The one screen: what is played, what comes out, and what this phone tells of it.
struct MainView: View {
    @ObservedObject var model: AppModel
    @State private var choosesBundle = false
    @State private var usesCamera = false
    @State private var choosesSound = false
    @State private var photograph: PhotosPickerItem?

    private var screen: Screen { model.screen }

    var body: some View {
        NavigationStack {
            Form {
                Section { FilmView(player: model.player, portrait: model.portrait) }
                Section { given }
                Section { buttons }
                if !screen.loads.isEmpty {
                    Section(say("loads")) { ForEach(screen.loads, id: \.self) { Text($0).font(.footnote) } }
                }
                if !screen.figures.isEmpty { Section(say("figures")) { ForEach(screen.figures, id: \.name, content: figure) } }
                if !screen.verified.isEmpty { Section(say("proofs")) { ForEach(screen.verified, content: ProofView.init) } }
                Section(say("phone")) {
                    figure(Figure(say("warmth"), Words.warmth(model.thermal)))
                    figure(Figure(say("memory"), model.memory))
                }
            }
            .navigationTitle(say("title"))
        }
        .sheet(isPresented: $choosesBundle) { BundlesView(model: model) }
        .fullScreenCover(isPresented: $usesCamera) { CameraView { model.choose(photograph: $0) }.ignoresSafeArea() }
        .fileImporter(isPresented: $choosesSound, allowedContentTypes: [.audio]) { result in
            if case .success(let file) = result { model.choose(sound: file) }
        }
        .onChange(of: photograph) { _, item in
            item?.loadTransferable(type: Data.self) { result in
                let data = try? result.get()
                DispatchQueue.main.async { model.choose(photograph: data) }
            }
        }
    }

    @ViewBuilder private var given: some View {
        Button(screen.bundle?.name ?? say("bundle.choose")) { choosesBundle = true }.disabled(!screen.canChooseBundle)
        PhotosPicker(say("photograph.choose"), selection: $photograph, matching: .images).disabled(!screen.canChoosePortrait)
        if UIImagePickerController.isSourceTypeAvailable(.camera) {
            Button(say("photograph.take")) { usesCamera = true }.disabled(!screen.canChoosePortrait)
        }
        HoldButton(title: say("voice.record"), isDown: screen.work == .recording) {
            model.beginRecording()
        } released: {
            model.endRecording()
        }
        .disabled(!screen.canRecord)
        Button(say("voice.choose")) { choosesSound = true }.disabled(!screen.canChooseSound)
        if let seconds = screen.soundSeconds { figure(Figure(say("voice"), Words.seconds(seconds))) }
        if screen.showsPrompt { prompt }
    }

    @ViewBuilder private var prompt: some View {
        let text = Binding(get: { screen.prompt }, set: { model.write(prompt: $0) })
        if screen.bundle?.readsText == true {
            TextField(say("prompt"), text: text, axis: .vertical)
        } else {
            Picker(say("prompt"), selection: text) { ForEach(screen.bundle?.prompts ?? [], id: \.self) { Text($0).tag($0) } }
        }
    }

    @ViewBuilder private var buttons: some View {
        HStack {
            Button(say("play")) { model.play() }.buttonStyle(.borderedProminent).disabled(!screen.canPlay)
            Button(say("verify")) { model.verify() }.buttonStyle(.bordered).disabled(!screen.canVerify)
            Button(say("cancel"), role: .cancel) { model.cancel() }.buttonStyle(.bordered).disabled(!screen.canCancel)
        }
        if let film = model.film, screen.canShare {
            HStack {
                ShareLink(say("share"), item: film).buttonStyle(.bordered)
                Button(say("again")) { model.player.again() }.buttonStyle(.bordered)
            }
        }
        if let share = screen.share { ProgressView(value: min(max(share, 0), 1)) }
        Text(screen.line)
            .foregroundStyle(screen.message?.fault == true ? Color.red : Color.primary)
            .accessibilityIdentifier("line")
    }

    private func figure(_ figure: Figure) -> some View { LabeledContent(figure.name, value: figure.value).font(.footnote) }
}

/// What is to be seen: the film, or the photograph before there is one.
private struct FilmView: View {
    @ObservedObject var player: FramePlayer
    let portrait: UIImage?

    var body: some View {
        Group {
            if let image = player.image {
                Image(decorative: image, scale: 1).resizable().scaledToFit()
            } else if let portrait {
                Image(uiImage: portrait).resizable().scaledToFit()
            } else {
                Image(systemName: "person.crop.square").resizable().scaledToFit().foregroundStyle(.secondary).padding(40)
            }
        }
        .frame(maxWidth: .infinity, maxHeight: 420)
    }
}

/// One proof: what came out, how far it is off, what is demanded.
private struct ProofView: View {
    let row: VerifyRow

    var body: some View {
        HStack(alignment: .firstTextBaseline) {
            Image(systemName: symbol).foregroundStyle(row.passed == false ? Color.red : Color.green)
            VStack(alignment: .leading) {
                Text(row.name).bold()
                Text(row.measured)
                Text(row.demanded).foregroundStyle(.secondary)
            }
            .font(.footnote)
        }
        .accessibilityElement(children: .combine)
    }

    private var symbol: String {
        switch row.passed {
        case true?: return "checkmark.circle"
        case false?: return "xmark.octagon"
        case nil: return "minus.circle"
        }
    }
}

/// A button that does something as long as it is held.
private struct HoldButton: View {
    let title: String
    let isDown: Bool
    let pressed: () -> Void
    let released: () -> Void

    var body: some View {
        Label(title, systemImage: isDown ? "mic.fill" : "mic")
            .foregroundStyle(isDown ? Color.red : Color.accentColor)
            .onLongPressGesture(minimumDuration: 3600, maximumDistance: 400) {
            } onPressingChanged: {
                $0 ? pressed() : released()
            }
            .accessibilityAddTraits(.isButton)
            .accessibilityAction { isDown ? released() : pressed() }
    }
}
