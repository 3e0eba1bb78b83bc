// Prints KubeVirt's manifests as a YAML stream, from the code that virt-operator itself installs them with.
//
//	kubevirt-manifests cluster    what virt-operator puts into a cluster, its own Pods and Secrets left out
//	kubevirt-manifests operator   what an administrator applies to get virt-operator
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"runtime/debug"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	virtv1 "kubevirt.io/api/core/v1"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/install"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/rbac"
	"kubevirt.io/kubevirt/pkg/virt-operator/util"
	"sigs.k8s.io/yaml"
)

const namespace = "kubevirt"

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: kubevirt-manifests cluster|operator")
	}
	switch os.Args[1] {
	case "cluster":
		cluster()
	case "operator":
		operator()
	default:
		log.Fatalf("%q is neither cluster nor operator", os.Args[1])
	}
}

func cluster() {
	strategy, err := install.GenerateCurrentInstallStrategy(&util.KubeVirtDeploymentConfig{Namespace: namespace}, "", namespace)
	check(err)
	show(definition())
	show(components.NewKubeVirtPriorityClassCR())
	each(strategy.CRDs())
	each(strategy.ServiceAccounts())
	each(strategy.ClusterRoles())
	each(strategy.ClusterRoleBindings())
	each(strategy.Roles())
	each(strategy.RoleBindings())
	each(strategy.APIServices())
	show(components.NewVirtAPIMutatingWebhookConfiguration(namespace))
	show(components.NewVirtAPIValidatingWebhookConfiguration(namespace))
	each(strategy.Instancetypes())
	each(strategy.Preferences())
}

func operator() {
	show(&corev1.Namespace{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{
			Name: namespace,
			// virt-handler is privileged.
			Labels: map[string]string{virtv1.AppLabel: "", "pod-security.kubernetes.io/enforce": "privileged"},
		},
	})
	show(definition())
	show(components.NewKubeVirtPriorityClassCR())
	each(rbac.GetAllOperator(namespace))
	deployment := components.NewOperatorDeployment(namespace, "quay.io/kubevirt", "", version(), "2",
		"", "", "", "", "", "", "", "", "", "", "", "", "", "", "", corev1.PullIfNotPresent)
	// It asks for a control-plane node; a managed cluster shows none.
	deployment.Spec.Template.Spec.Affinity.NodeAffinity = nil
	show(deployment)
}

func definition() any {
	crd, err := components.NewKubeVirtCrd()
	check(err)
	return crd
}

// version is that of the module this program was built from, so that go.mod alone pins it.
func version() string {
	build, _ := debug.ReadBuildInfo()
	for _, module := range build.Deps {
		if module.Path == "kubevirt.io/kubevirt" {
			return module.Version
		}
	}
	panic("built without kubevirt.io/kubevirt")
}

func each[T any](objects []T) {
	for _, object := range objects {
		show(object)
	}
}

// show prints an object without what only a server fills in.
func show(object any) {
	text, err := json.Marshal(object)
	check(err)
	var fields map[string]any
	check(json.Unmarshal(text, &fields))
	unstructured.RemoveNestedField(fields, "status")
	unstructured.RemoveNestedField(fields, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(fields, "spec", "template", "metadata", "creationTimestamp")
	text, err = yaml.Marshal(fields)
	check(err)
	fmt.Printf("---\n%s", text)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
