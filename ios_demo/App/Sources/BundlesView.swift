import EchoEdgeAppCore
import SwiftUI
import UIKit
import UniformTypeIdentifiers

/// Bundles that are here, and the ways to bring another one.
struct BundlesView: View {
    @ObservedObject var model: AppModel
    @Environment(\.dismiss) private var dismiss
    @AppStorage("address") private var address = ""
    @State private var picks = false

    var body: some View {
        NavigationStack {
            Form {
                Section(say("bundles.here")) {
                    if model.shelf.isEmpty { Text(say("bundles.none")).foregroundStyle(.secondary) }
                    ForEach(model.shelf, id: \.self) { folder in
                        Button(folder.lastPathComponent) {
                            model.openBundle(folder)
                            dismiss()
                        }
                    }
                    .onDelete { places in places.map { model.shelf[$0] }.forEach(model.removeBundle) }
                }
                Section(say("bundles.files")) { Button(say("bundles.pick")) { picks = true } }
                Section(say("bundles.fetch")) {
                    TextField("https://host/folder/NAME.echoedge", text: $address)
                        .keyboardType(.URL).textInputAutocapitalization(.never).autocorrectionDisabled()
                    Button(say("bundles.get")) {
                        model.fetchBundle(address)
                        dismiss()
                    }
                    .disabled(address.isEmpty)
                }
            }
            .navigationTitle(say("bundles"))
            .toolbar { Button(say("close")) { dismiss() } }
        }
        .onAppear { model.refresh() }
        .fileImporter(isPresented: $picks, allowedContentTypes: [.folder]) { result in
            guard case .success(let folder) = result else { return }
            model.copyBundle(folder)
            dismiss()
        }
    }
}

/// The system's camera.
struct CameraView: UIViewControllerRepresentable {
    let taken: (Data?) -> Void
    @Environment(\.dismiss) private var dismiss

    func makeUIViewController(context: Context) -> UIImagePickerController {
        let controller = UIImagePickerController()
        controller.sourceType = .camera
        if UIImagePickerController.isCameraDeviceAvailable(.front) { controller.cameraDevice = .front }
        controller.delegate = context.coordinator
        return controller
    }

    func updateUIViewController(_ controller: UIImagePickerController, context: Context) {}

    func makeCoordinator() -> Coordinator { Coordinator(self) }

    final class Coordinator: NSObject, UIImagePickerControllerDelegate, UINavigationControllerDelegate {
        private let view: CameraView

        init(_ view: CameraView) { self.view = view }

        func imagePickerController(
            _ picker: UIImagePickerController, didFinishPickingMediaWithInfo info: [UIImagePickerController.InfoKey: Any]
        ) {
            view.taken((info[.originalImage] as? UIImage)?.jpegData(compressionQuality: 0.95))
            view.dismiss()
        }

        func imagePickerControllerDidCancel(_ picker: UIImagePickerController) { view.dismiss() }
    }
}
